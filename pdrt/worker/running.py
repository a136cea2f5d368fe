"""One incarnation of one worker, as the keeper sees it."""

from __future__ import annotations

import logging
import time

from pdrt.errors import EngineDead, PdrtError
from pdrt.messages import Failed, Faulted, ServerSpec, WorkerSpec
from pdrt.mps import PrivateMps
from pdrt.worker import process
from pdrt.worker.channel import Channel
from pdrt.worker.process import Child
from pdrt.worker.sharing import environment

log = logging.getLogger("pdrt")


def spawn_worker(server: ServerSpec, spec: WorkerSpec, mps: PrivateMps | None) -> Child:
    """A process that imports what a worker needs, and waits for its Work."""
    variables = environment(mps, spec.role, server)
    return process.spawn("pdrt.worker.main", spec.name, spec.threads, environment=variables)


class RunningWorker:
    """One incarnation of one worker. `front` is the front end's end of its channel, until sent."""

    def __init__(self, spec: WorkerSpec, incarnation: int, child: Child, front: Channel) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self.child = child
        self.front: Channel | None = front
        self.started = time.monotonic()
        self.blame = ""  # why we killed it, if we did
        self.failed: Failed | None = None  # what it said before it ended
        self.faulted: Faulted | None = None  # that its GPU failed, and under which rows

    @property
    def instance(self) -> int:
        return self.incarnation << 8 | self.spec.index

    @property
    def is_ready(self) -> bool:
        return self.front is None

    def why_ended(self, how: str) -> str:
        """In words; `how` is its exit status."""
        fault = f"ended by a fault of its device: {self.faulted.fault}" if self.faulted else ""
        blame = self.blame or fault
        return f"{blame} ({how})" if blame else how

    def last_words(self, reason: str) -> str:
        """What it said was wrong, if it did; else how it ended."""
        return self.failed.message if self.failed else reason

    def start_error(self, reason: str) -> PdrtError:
        """Why the first incarnation never came up."""
        if self.failed:
            return process.as_error(self.failed)
        return EngineDead(f"{self.spec.name} {reason} before it was ready")

    def kill(self, blame: str) -> None:
        log.warning("%s %s; killing it", self.spec.name, blame)
        self.blame = blame
        self.child.kill()
