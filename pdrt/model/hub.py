"""Models of the Hugging Face hub, fetched by the hub's own client into the hub's own cache.

    commit hash, whole in the cache  -> no call at all
    otherwise                        -> ask the hub what the revision is now, fetch what is missing
    hub not reachable                -> what the cache has, if it is whole, with a warning

Only files that pdrt reads are fetched, the small ones first: a model that cannot run is refused
before its weights are. The client reads its own environment (HF_HOME, HF_TOKEN, HF_ENDPOINT, ...).
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils.tqdm import tqdm

from pdrt.errors import ModelError
from pdrt.model.cache import tell
from pdrt.model.checkpoint import INDEX, SINGLE, no_weights, read_spec, shards, weight_files
from pdrt.model.hub_errors import explain, is_unreachable

SMALL = (
    *("config.json", "generation_config.json", INDEX),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
)
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT = 10.0  # seconds for the hub's first answer; what follows has the client's own limits

log = logging.getLogger("pdrt")


@dataclass(frozen=True, slots=True)
class HubModel:
    """What is wanted of a repository.

    Attributes:
        name: ORG/NAME.
        revision: branch, tag or commit; None is the main branch.
        file: this GGUF file only.
        weights: without them config and tokenizer are enough.
    """

    name: str
    revision: str | None = None
    file: str | None = None
    weights: bool = True

    def fetch(self) -> Path:
        """The folder of the snapshot, or the path of `file` in it; whole.

        Raises:
            ModelError: it cannot be had, and why; or it is nothing that pdrt runs.
        """
        here = self.cached()
        if here and COMMIT.fullmatch(self.revision or ""):
            return here
        try:
            return self._download()
        except (HfHubHTTPError, httpx2.TransportError, OSError, ValueError) as error:
            if not (here and is_unreachable(error)):
                raise explain(error, self.name, self.revision) from None
            if not isinstance(error, OfflineModeIsEnabled):
                log.warning("%s; using %s as it is in the cache", _first_line(error), self.name)
            return here

    def cached(self) -> Path | None:
        """As `fetch`, without the network: None where it is not, or not whole, in the cache."""
        needed = self.file or "config.json"
        try:
            snapshot = snapshot_download(
                self.name, revision=self.revision, local_files_only=True, allow_patterns=[needed]
            )
        except (LocalEntryNotFoundError, ValueError):  # not there, or no name that a hub has
            return None
        folder = Path(snapshot)
        if not (folder / needed).is_file():
            return None
        if self.file:
            return folder / self.file
        return folder if not self.weights or _has_weights(folder) else None

    def _download(self) -> Path:
        commit, sizes = self._listing()
        if self.file:
            if self.file not in sizes:
                raise ModelError(f"{self.name} has no file {self.file}{_gguf_files(sizes)}")
            self._announce([self.file], sizes, commit)
            return self._get([self.file], self.revision) / self.file
        if "config.json" not in sizes:
            raise ModelError(f"{self.name} has no config.json{_gguf_files(sizes)}")
        folder = self._get([name for name in SMALL if name in sizes], self.revision)
        read_spec(folder)
        if self.weights:
            names = self._weight_names(folder, sizes)
            self._announce(names, sizes, commit)
            self._get(names, folder.name)
        return folder

    def _listing(self) -> tuple[str, dict[str, int]]:
        """The commit that the revision means now, and the files there: name -> bytes."""
        info = HfApi().model_info(
            self.name, revision=self.revision, files_metadata=True, timeout=TIMEOUT
        )
        return info.sha or "", {file.rfilename: file.size or 0 for file in info.siblings or ()}

    def _get(self, names: Sequence[str], revision: str | None) -> Path:
        """Fetches files that are not in the cache; the snapshot's folder."""
        is_small = set(names) <= set(SMALL)
        bar = None if sys.stderr.isatty() and not is_small else _NoBar  # None: the client's own
        return Path(
            snapshot_download(
                self.name, revision=revision, allow_patterns=list(names), tqdm_class=bar
            )
        )

    def _weight_names(self, folder: Path, sizes: Mapping[str, int]) -> list[str]:
        names = [SINGLE] if SINGLE in sizes else shards(folder) if INDEX in sizes else []
        if not names:
            raise no_weights(self.name, sizes)
        for name in names:
            if name not in sizes:
                raise ModelError(f"{self.name}: {INDEX} names {name}, which the repository has not")
        return names

    def _announce(self, names: Sequence[str], sizes: Mapping[str, int], commit: str) -> None:
        """Says what is about to be fetched, and refuses what the disk has no room for."""
        cached = (try_to_load_from_cache(self.name, name, revision=commit) for name in names)
        missing = [name for name, path in zip(names, cached, strict=True) if path is None]
        if not missing:
            return
        num_bytes = sum(sizes[name] for name in missing)
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if free < num_bytes:
            raise ModelError(
                f"{cache} has {free / 1e6:.0f} MB free and {self.name} needs "
                f"{num_bytes / 1e6:.0f} MB; make room, or set HF_HOME to another disk"
            )
        tell(
            f"fetching {self.name} from {constants.ENDPOINT}: {len(missing)} "
            f"file{'s' if len(missing) > 1 else ''}, {num_bytes / 1e6:.0f} MB"
        )


class _NoBar(tqdm):
    """The client shows one of its bars on any stream, which fills logs."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]


def _has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except ModelError:
        return False


def _gguf_files(names: Mapping[str, int]) -> str:
    found = sorted(name for name in names if name.endswith(".gguf"))
    if not found:
        return "; pdrt runs repositories with config.json and safetensors, or GGUF files"
    return f"; it has GGUF files: give ORG/NAME:FILE, one of {', '.join(found)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
