"""How the keeper gets a server's memory filled, before there is any worker.

    CPU   loader: weights into memory files -> ends
    GPU   loader: weights -> profiler of each role, one after the other -> loader: pool of what is
          left of the device's share -> stays

With --num-pages there is nothing to find out, and no profiler runs.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from msgspec import structs

from pdrt import machine
from pdrt.errors import EngineDead
from pdrt.loading_messages import Load, Loaded, MakePool, Peak, PoolMade, Probe
from pdrt.messages import DeviceMemoryUse, Failed, Role, ServerSpec, WorkerSpec
from pdrt.mps import PrivateMps
from pdrt.wire import Message
from pdrt.worker import process
from pdrt.worker.channel import Channel
from pdrt.worker.process import Child
from pdrt.worker.sharing import environment
from pdrt.worker.slabs import Slabs

LOAD_SECONDS = 1800.0  # for the loader, whatever the size of the model
PROFILE_SECONDS = 600.0  # for a profiler, which compiles kernels and captures graphs

M = TypeVar("M")

log = logging.getLogger("pdrt")


@dataclass(frozen=True, slots=True)
class Filled:
    """A server whose weights are loaded.

    Attributes:
        server: with the pages that there are.
        device_memory: how a GPU's memory is used.
    """

    server: ServerSpec
    slabs: Slabs
    device_memory: DeviceMemoryUse | None = None


class Loading:
    """The start of one server.

    Args:
        front: closed when the front end is gone.
        parent: pidfd of the front end.
        mps: where the processes of a GPU share it by a daemon.

    Methods raise PdrtError, what a child said was wrong or how it ended without a word, and
    SystemExit when the front end is gone or wants us to leave.
    """

    def __init__(
        self, front: Channel, server: ServerSpec, parent: int, mps: PrivateMps | None
    ) -> None:
        self._front = front
        self._server = server
        self._parent = parent
        self._mps = mps

    def run(self) -> Filled:
        """Fills the memory; nothing is left running where it fails."""
        on_cpu = self._server.device == "cpu"
        slabs = Slabs.on_cpu(self._server) if on_cpu else Slabs()
        threads = min(machine.num_cores(), sum(spec.threads for spec in self._server.workers))
        loader = self._spawn("loader", threads, None)
        try:
            loader.channel.send(Load(self._server), slabs.fds)
            loaded, fds = self._answer(loader, Loaded, LOAD_SECONDS)
            if on_cpu:
                loader.leave()  # before the seal, which a writable mapping would make worthless
                slabs.seal()
                return Filled(self._server, slabs)
            slabs.take(fds, loaded.handles)
            filled = self._make_pool(loader, slabs, loaded.memory_free)
            slabs.owner = loader
            return filled
        finally:
            if slabs.owner is None:
                loader.close()

    def _make_pool(self, loader: Child, slabs: Slabs, memory_free: int) -> Filled:
        peaks: Mapping[Role, Peak] = {}
        if not self._server.num_pages:
            peaks = self.measure(slabs, memory_free)
        taken = [peaks[spec.role] for spec in self._server.workers if peaks]
        worker_bytes = sum(peak.num_bytes for peak in taken)
        loader.channel.send(MakePool(worker_bytes))
        pool, fds = self._answer(loader, PoolMade, LOAD_SECONDS)
        slabs.take(fds, pool.handles)
        use = DeviceMemoryUse(
            total=pool.memory_total,
            weights=self._server.weight_bytes,
            pages=pool.kv_bytes,
            workers=worker_bytes,
            graphs=sum(peak.graph_bytes for peak in taken),
        )
        server = structs.replace(self._server, num_pages=pool.num_pages, kv_bytes=pool.kv_bytes)
        return Filled(server, slabs, use)

    def measure(self, slabs: Slabs, memory_free: int) -> dict[Role, Peak]:
        """What a worker of each role takes: a profiler for each, one after the other.

        Args:
            slabs: of which the weights are there.
            memory_free: of the device.
        """
        first = {spec.role: spec for spec in reversed(self._server.workers)}
        return {role: self._profile(spec, slabs, memory_free) for role, spec in first.items()}

    def _profile(self, spec: WorkerSpec, slabs: Slabs, memory_free: int) -> Peak:
        log.info("measuring what a %s worker takes of %s", spec.role, self._server.device)
        profiler = self._spawn("profiler", spec.threads, spec.role)
        try:
            probe = Probe(self._server, spec, memory_free, slabs.handles[:1])
            profiler.channel.send(probe, slabs.fds[:1])
            peak, _ = self._answer(profiler, Peak, PROFILE_SECONDS)
            profiler.leave()  # by itself: then the device has all back that it held
            return peak
        finally:
            profiler.close()

    def _spawn(self, name: str, threads: int, role: Role | None) -> Child:
        variables = environment(self._mps, role, self._server)
        return process.spawn(f"pdrt.worker.{name}", name, threads, environment=variables)

    def _answer(self, child: Child, kind: type[M], seconds: float) -> tuple[M, list[int]]:
        """The child's next frame, which must be of a kind, with its descriptors."""
        message, fds = self._next_frame(child, seconds)
        if isinstance(message, Failed):
            raise process.as_error(message)
        if not isinstance(message, kind):
            raise EngineDead(f"the {child.name} process {child.close()} without an answer")
        return message, fds

    def _next_frame(self, child: Child, seconds: float) -> tuple[Message | None, list[int]]:
        """None where the child ends without one."""
        until = time.monotonic() + seconds
        while not child.channel.closed:
            waiting: list[int | Channel] = [child.channel, self._parent, self._front]
            ready, _, _ = select.select(waiting, [], [], max(0.0, until - time.monotonic()))
            front_spoke = self._front in ready and self._front.receive()
            if self._parent in ready or front_spoke or self._front.closed:
                raise SystemExit
            if not ready:
                raise EngineDead(f"the {child.name} process did not answer within {seconds:.0f} s")
            for message, fds in child.channel.receive(most=1):
                return message, fds
        return None, []
