"""The front end's side of the processes: starts the keeper, owns the channels, drives the router.

All of it runs in one asyncio event loop, which belongs to `pdrt.Engine`'s thread. Frames arrive by
`add_reader`; asyncio's streams refuse this kind of socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from dataclasses import dataclass

from msgspec import structs

from pdrt._C import Ledger
from pdrt.errors import EngineDead, PdrtError
from pdrt.messages import (
    DeviceMemoryUse,
    Failed,
    Report,
    ServerSpec,
    Serving,
    Start,
    Stop,
    Sweep,
    WorkerDown,
    WorkerUp,
)
from pdrt.movement import Movement
from pdrt.request import Request
from pdrt.router import Router
from pdrt.updates import Sink
from pdrt.worker import process
from pdrt.worker.channel import Channel

TICK_SECONDS = 0.1
GPU_LEAVE_SECONDS = 30.0  # for a keeper: contexts end one after the other, then the MPS daemon

log = logging.getLogger("pdrt")


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A live worker, for summaries and metrics."""

    name: str
    pid: int
    threads: int


@dataclass(slots=True)
class _Connection:
    state: WorkerState
    channel: Channel


class FrontEnd:
    """One running server: keeper, workers, router. Not thread-safe: lives in its event loop."""

    def __init__(self, server: ServerSpec, max_queued_requests: int) -> None:
        self.server = server
        self.dead: PdrtError | None = None
        self.load_seconds = 0.0
        self.device_memory: DeviceMemoryUse | None = None
        self.restarts: Counter[str] = Counter()  # by worker name
        self.faults: Counter[str] = Counter()  # of them, by a fault of the GPU
        self._max_queued = max_queued_requests
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, _Connection] = {}  # by instance
        self._changed = asyncio.Event()  # something happened that `start` waits for
        self._keeper = process.spawn("pdrt.worker.keeper", "keeper", new_session=True)
        self._keeper_pid = self._keeper.pid
        self._router: Router | None = None
        self._ledger: Ledger | None = None
        self._movement: Movement | None = None
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self._loop.add_reader(self._keeper.channel.fileno(), self._hear_keeper)
        self._keeper.channel.send(Start(server))

    @property
    def router(self) -> Router:
        assert self._router is not None, "before start() has returned"
        return self._router

    @property
    def ledger(self) -> Ledger:
        assert self._ledger is not None, "before start() has returned"
        return self._ledger

    @property
    def keeper_pid(self) -> int:
        return self._keeper_pid

    @property
    def workers(self) -> list[WorkerState]:
        """Live workers by name."""
        return sorted(self._states(), key=lambda state: state.name)

    def _states(self) -> list[WorkerState]:
        """Also for another thread: the copy is made in one go."""
        return [connection.state for connection in list(self._connections.values())]

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when every worker is up.

        Raises:
            PdrtError: what the keeper, the loader or a worker said was wrong.
        """
        while len(self._connections) < len(self.server.workers):
            await self._changed.wait()
            self._changed.clear()
            if self.dead:
                raise self.dead

    def stop(self, error: PdrtError) -> None:
        """Ends everything; whoever still waits gets `error`. Idempotent."""
        self._die(error)
        self._timer.cancel()
        self._keeper.channel.send(Stop())
        self._keeper.leave(None if self.server.device == "cpu" else GPU_LEAVE_SECONDS)

    def _die(self, error: PdrtError) -> None:
        if self.dead:
            return
        self.dead = error
        self._loop.remove_reader(self._keeper.channel.fileno())
        self._loop.remove_writer(self._keeper.channel.fileno())
        for instance in list(self._connections):
            self._disconnect(instance)
        if self._router:
            self._router.fail_all(error)
        self._changed.set()

    # -- requests ---------------------------------------------------------------------------------

    def submit(self, request: Request, sink: Sink) -> None:
        """Raises Overloaded or EngineDead; otherwise `sink` gets exactly one last update."""
        if self.dead:
            raise self.dead
        self.router.submit(request, sink)
        self._flush()

    def abort(self, request_id: str, sink: Sink | None = None) -> bool:
        aborted = self.router.abort(request_id, sink)
        self._flush()
        return aborted

    def not_ready(self) -> str | None:
        """Why requests should go elsewhere now; None when all is well."""
        if self.dead:
            return str(self.dead)
        up = {state.name for state in self._states()}
        roles = {spec.role for spec in self.server.workers if spec.name in up}
        down = [spec.name for spec in self.server.workers if spec.role not in roles]
        if down:
            return f"{', '.join(down)} {'is' if len(down) == 1 else 'are'} down"
        stalled = self._movement.seconds_still if self._movement else 0.0
        if stalled > self.server.watchdog_timeout:
            return f"requests are waiting, and no worker has made a step for {stalled:.0f} s"
        return None

    # -- frames -----------------------------------------------------------------------------------

    def _hear_keeper(self) -> None:
        for message, fds in self._keeper.channel.receive():
            if isinstance(message, Serving):
                if not fds:
                    self._die(EngineDead("no file descriptor is free: raise ulimit -n"))
                    break
                self._ledger = Ledger.attach(fds[0])
                os.close(fds[0])
                indexes = [spec.index for spec in self.server.workers]
                self._movement = Movement(self._ledger, indexes)
                self._router = Router(self._ledger, self._max_queued, self._sweep)
                self.load_seconds = message.load_seconds
                self.device_memory = message.device_memory
                self.server = structs.replace(
                    self.server, num_pages=message.num_pages, kv_bytes=message.kv_bytes
                )
            elif isinstance(message, WorkerUp):
                if fds:
                    self._connect(message, Channel.of_fd(fds[0]))
                else:  # the kernel drops what we have no room for; the worker ends and is replaced
                    name = self.server.workers[message.index].name
                    log.error("no file descriptor is free for %s: raise ulimit -n", name)
            elif isinstance(message, WorkerDown):
                self._worker_down(message)
            elif isinstance(message, Failed):
                self._die(process.as_error(message))
        if self._keeper.channel.closed and not self.dead:
            error = EngineDead("the keeper process is gone, and with it all workers and their KV")
            if self._router:
                log.error("%s; only a restart can help", error)
            self._die(error)
        self._changed.set()
        self._flush()

    def _connect(self, up: WorkerUp, channel: Channel) -> None:
        spec = self.server.workers[up.index]
        state = WorkerState(spec.name, up.pid, spec.threads)
        self._connections[up.instance] = _Connection(state, channel)
        self._loop.add_reader(channel.fileno(), self._hear_worker, up.instance)
        self.router.worker_up(up.instance, spec.role, channel.send)

    def _worker_down(self, down: WorkerDown) -> None:
        name = self.server.workers[down.index].name
        self.restarts[name] += 1
        self.faults[name] += bool(down.fault)
        self._disconnect(down.instance)
        self.router.worker_down(down.instance, down.held, down.fault, down.faulted)

    def _disconnect(self, instance: int) -> None:
        connection = self._connections.pop(instance, None)
        if connection:
            self._loop.remove_reader(connection.channel.fileno())
            self._loop.remove_writer(connection.channel.fileno())
            connection.channel.close()

    def _hear_worker(self, instance: int) -> None:
        connection = self._connections[instance]
        for message, _ in connection.channel.receive(most=1):  # the loop calls again for the next
            if isinstance(message, Report):
                self.router.hear(message)
        if connection.channel.closed:  # dead or dying: the keeper will say when it is reaped
            self._loop.remove_reader(connection.channel.fileno())
            self._loop.remove_writer(connection.channel.fileno())
        self._flush()

    def _sweep(self) -> None:
        self._keeper.channel.send(Sweep())

    def _flush(self) -> None:
        """Where a socket is full, asks the loop to send the rest when there is room."""
        self._watch_full(self._keeper.channel)
        for connection in self._connections.values():
            self._watch_full(connection.channel)

    def _watch_full(self, channel: Channel) -> None:
        if channel.wants_write:
            self._loop.add_writer(channel.fileno(), self._send_rest, channel)

    def _send_rest(self, channel: Channel) -> None:
        channel.flush()
        if not channel.wants_write:
            self._loop.remove_writer(channel.fileno())

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        if self._router is None or self._movement is None or self.dead:
            return
        self._router.tick()
        self._flush()
        self._movement.look(is_idle=not self._router.num_requests)
