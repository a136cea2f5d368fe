"""How workers share a GPU's multiprocessors: by MPS side by side, without it in turns."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pdrt.errors import ConfigError, EngineDead
from pdrt.messages import Faulted, Role, ServerSpec, WorkerSpec
from pdrt.mps import MpsError, PrivateMps
from pdrt.worker.slabs import device_number

log = logging.getLogger("pdrt")

NOTHING: Mapping[str, str] = {}


def start_mps(server: ServerSpec) -> PrivateMps | None:
    """A daemon for this server alone, where there are workers that share a GPU.

    Raises:
        ConfigError: --mps on, and it does not start or serve; says why.
    """
    if server.device == "cpu" or server.mps == "off" or len(server.workers) == 1:
        return None
    try:
        return _tried(PrivateMps(), device_number(server.device))
    except MpsError as error:
        if server.mps == "on":
            raise ConfigError(f"--mps is on, but {error}") from None
        log.warning(
            "without MPS (%s) prefill and decode take turns on the GPU: a decode step waits for "
            "the kernels of prefill",
            error,
        )
        return None


def _tried(mps: PrivateMps, device: int) -> PrivateMps:
    try:
        mps.try_client(device)
    except BaseException:
        mps.stop()
        raise
    return mps


def environment(mps: PrivateMps | None, role: Role | None, server: ServerSpec) -> Mapping[str, str]:
    """Variables of a child's environment; role None is the loader."""
    if mps is None:
        return NOTHING
    return mps.environment(server.prefill_sm_percent if role == "prefill" else 100)


def faulted_under_mps(worker: WorkerSpec, faulted: Faulted) -> EngineDead:
    """Under MPS a fault of one client is a fault of all, and new ones are refused until all ended.

    Reference: https://docs.nvidia.com/deploy/mps, "Client Termination"
    """
    return EngineDead(
        f"{worker.name} was ended by a fault of its device ({faulted.fault}), and under MPS that "
        "takes all processes of the server with it; start again, with --mps off to keep them apart"
    )
