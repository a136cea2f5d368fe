"""What the hub's client raises, in sentences that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pdrt.errors import ModelError


def is_unreachable(error: BaseException) -> bool:
    """Whether the hub gave no answer, or one that says that it is down."""
    for each in _chain(error):
        if isinstance(each, httpx2.TransportError | OfflineModeIsEnabled):
            return True
        if isinstance(each, HfHubHTTPError):
            return each.response.status_code >= 500
    return False


def explain(error: BaseException, name: str, revision: str | None) -> ModelError:
    """The error for the user who asked for the model `name`, at `revision`."""
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    for each in _chain(error):
        if isinstance(each, OfflineModeIsEnabled):
            return ModelError(
                f"model {name!r} is no local folder, it is not whole in the hub's cache ({cache}), "
                "and HF_HUB_OFFLINE forbids to fetch it; unset that once, or give a local folder"
            )
        if isinstance(each, GatedRepoError):
            return ModelError(
                f"{name} is gated: accept its terms at {hub}/{name}, and set HF_TOKEN to a token "
                "of that account"
            )
        if isinstance(each, RevisionNotFoundError):
            return ModelError(
                f"{name} has no revision {revision!r} at {hub}; give --revision a branch, tag or "
                "commit that it has, or leave it out"
            )
        if isinstance(each, RepositoryNotFoundError):
            return ModelError(
                f"model {name!r} is no local folder, and {hub} has none of that name that you may "
                "see; check the name, and set HF_TOKEN if it is private"
            )
        if isinstance(each, HfHubHTTPError) and each.response.status_code in (401, 403):
            return ModelError(
                f"{hub} refuses to give {name} ({each.response.status_code}): the token in "
                "HF_TOKEN is not valid, or may not read it"
            )
        if isinstance(each, OSError) and each.errno == errno.ENOSPC:
            return ModelError(
                f"the disk of {cache} is full while fetching {name}; make room, or set HF_HOME to "
                "another disk"
            )
    if is_unreachable(error):
        return ModelError(
            f"{hub} cannot be reached ({_said(error)}), and {name} is not whole in its cache "
            f"({cache}); check the network and try again: finished files are kept"
        )
    return ModelError(f"{name} cannot be fetched from {hub}: {_said(error)}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that caused it."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _said(error: BaseException) -> str:
    """The innermost cause in one line."""
    *_, last = _chain(error)
    lines = [line for line in str(last).splitlines() if line.strip()]
    return lines[0] if lines else type(last).__name__
