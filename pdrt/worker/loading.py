"""How the keeper gets a server's memory filled, before there is any worker."""

from __future__ import annotations

import select
import time
from collections.abc import Mapping

from pdrt import machine
from pdrt.errors import EngineDead
from pdrt.messages import Failed, Load, Loaded, Message, ServerSpec
from pdrt.worker import process
from pdrt.worker.channel import Channel
from pdrt.worker.process import Child
from pdrt.worker.slabs import Slabs

LOAD_SECONDS = 1800.0  # for the loader, whatever the size of the model


def load(
    front: Channel, server: ServerSpec, parent: int, environment: Mapping[str, str]
) -> tuple[Slabs, Loaded]:
    """Runs a loader until the weights are in memory.

    Args:
        front: closed when the front end is gone.
        parent: pidfd of the front end.
        environment: further variables of the loader's.

    Raises:
        PdrtError: what the loader said was wrong, or how it ended without a word.
        SystemExit: the front end is gone or wants us to leave.
    """
    slabs = Slabs.on_cpu(server) if server.device == "cpu" else Slabs()
    threads = min(machine.num_cores(), sum(worker.threads for worker in server.workers))
    loader = process.spawn("pdrt.worker.loader", "loader", threads, environment=environment)
    try:
        loader.channel.send(Load(server), slabs.fds)
        answer, fds = _answer(front, loader, parent)
        if isinstance(answer, Failed):
            raise process.as_error(answer)
        if not isinstance(answer, Loaded):
            raise EngineDead(f"the process that loads the weights {loader.close()}")
        if server.device == "cpu":
            loader.leave()  # before the seal, which a writable mapping would make worthless
            slabs.seal()
        else:
            slabs.take(fds, answer.handles, loader)
        return slabs, answer
    finally:
        if slabs.owner is None:
            loader.close()


def _answer(front: Channel, loader: Child, parent: int) -> tuple[Message | None, list[int]]:
    """The loader's first frame with its descriptors; None where it ends without one."""
    until = time.monotonic() + LOAD_SECONDS
    while not loader.channel.closed:
        waiting: list[int | Channel] = [loader.channel, parent, front]
        ready, _, _ = select.select(waiting, [], [], max(0.0, until - time.monotonic()))
        if parent in ready or (front in ready and front.receive()) or front.closed:
            raise SystemExit
        if not ready:
            raise EngineDead(f"the weights were not loaded within {LOAD_SECONDS:.0f} s")
        for message, fds in loader.channel.receive(most=1):
            return message, fds
    return None, []
