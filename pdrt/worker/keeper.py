"""The keeper: makes the shared memory, starts, watches, reaps and restarts the workers.

    python -m pdrt.worker.keeper        started by pdrt.Engine, never by hand

    Start -> load weights -> Serving -> workers up ... worker dies -> reap -> restart ... Stop

It holds page memory, weights and ledger, so they outlive any worker; it runs no kernel and imports
no torch. It ends when the front end closes the channel or dies, and takes every worker with it;
when it dies itself, the kernel kills the workers. What can go wrong with a worker while it runs is
found by `pdrt.worker.watch`.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Mapping
from contextlib import ExitStack

from pdrt._C import Ledger, Outcome
from pdrt.messages import (
    Failed,
    Faulted,
    Ready,
    ServerSpec,
    Serving,
    Start,
    Stop,
    Sweep,
    Work,
    WorkerDown,
    WorkerSpec,
    WorkerUp,
)
from pdrt.mps import PrivateMps
from pdrt.sched.held import requests_held_by, requests_in
from pdrt.worker import process
from pdrt.worker.channel import Channel, pair
from pdrt.worker.loading import Filled, Loading
from pdrt.worker.process import Child
from pdrt.worker.restarts import Restarts
from pdrt.worker.running import RunningWorker, spawn_worker
from pdrt.worker.sharing import faulted_under_mps, start_mps
from pdrt.worker.watch import Watch

TURN_SECONDS = 0.05
START_SECONDS = 120.0  # for a worker to import, map and report
GPU_START_SECONDS = 600.0  # and to compile kernels and capture graphs

log = logging.getLogger("pdrt")


class Keeper:
    """Holds the memory of one server and runs its workers until the front end is gone."""

    def __init__(
        self,
        front: Channel,
        filled: Filled,
        mps: PrivateMps | None,
        spawned: Mapping[int, Child],
    ) -> None:
        """`spawned`: processes by worker's index, for the first incarnations."""
        server = filled.server
        self._front = front
        self._server = server
        self._slabs = filled.slabs
        self._device_memory = filled.device_memory
        self._mps = mps
        self._spawned = dict(spawned)
        self._ledger = Ledger.create(
            num_pages=server.num_pages,
            page_size=server.page_size,
            num_slots=server.num_slots,
            max_model_len=server.max_model_len,
            sealed_bound=server.sealed_bound,
            namespace=server.namespace,
        )
        self._start_seconds = START_SECONDS if server.device == "cpu" else GPU_START_SECONDS
        self._watch = Watch(self._ledger, server.watchdog_timeout)
        self._workers: dict[int, RunningWorker] = {}  # by index
        self._unreaped: list[tuple[RunningWorker, str]] = []
        self._restarts = Restarts()
        self._dead: dict[str, RunningWorker] = {}  # reaped, by name, until they are started again

    # -- life -------------------------------------------------------------------------------------

    def run(self, parent: int, load_seconds: float) -> None:
        """Returns when the front end, whose pidfd is `parent`, is gone or has asked for it."""
        try:
            sizes = self._server.num_pages, self._server.kv_bytes, self._device_memory
            self._front.send(Serving(load_seconds, *sizes), [self._ledger.fd])
            for spec in self._server.workers:
                self._start_worker(spec, incarnation=1)
            while self._turn(parent):
                pass
        finally:
            # Of the clients of MPS, one that is killed at work may hang the others and the daemon.
            children = [worker.child for worker in self._workers.values()]
            process.end_all(children, in_order=self._mps is not None)

    def _turn(self, parent: int) -> bool:
        """Waits for what happens next, at most TURN_SECONDS; False when it is time to leave."""
        workers = list(self._workers.values())
        waiting: list[int | Channel] = [parent, self._front]
        waiting += [w.child.pidfd for w in workers]
        waiting += [w.child.channel for w in workers if not w.child.channel.closed]
        owner = self._slabs.owner
        waiting += [owner.pidfd] if owner else []
        writing = [self._front] if self._front.wants_write else []
        ready, _, _ = select.select(waiting, writing, [], TURN_SECONDS)
        self._front.flush()
        if parent in ready or (self._front in ready and not self._hear_front()):
            return False
        if owner and owner.pidfd in ready:
            self._slabs.lose_owner()
        for worker in workers:
            if worker.child.channel in ready or worker.child.pidfd in ready:
                self._hear_worker(worker)
            if worker.child.pidfd in ready:
                self._bury(worker)
        self._reap_dead()
        self._start_again()
        self._watch_over()
        return True

    # -- workers ----------------------------------------------------------------------------------

    def _start_worker(self, spec: WorkerSpec, incarnation: int) -> None:
        child = self._spawned.pop(spec.index, None) or spawn_worker(self._server, spec, self._mps)
        front, theirs = pair()
        worker = RunningWorker(spec, incarnation, child, front)
        self._workers[spec.index] = worker
        child.channel.send(
            Work(self._server, spec, worker.instance, self._slabs.handles),
            [self._ledger.fd, theirs.fileno(), *self._slabs.fds],
        )
        theirs.close()

    def _hear_worker(self, worker: RunningWorker) -> None:
        for message, _ in worker.child.channel.receive():
            if isinstance(message, Ready) and worker.front:
                self._watch.add(worker.spec.index)
                up = WorkerUp(worker.spec.index, worker.instance, worker.child.pid)
                self._front.send(up, [worker.front.fileno()])
                worker.front.close()
                worker.front = None
                log.info("%s is up: pid %d", worker.spec.name, worker.child.pid)
            elif isinstance(message, Failed):
                worker.failed = message
            elif isinstance(message, Faulted):
                worker.faulted = message

    def _bury(self, worker: RunningWorker) -> None:
        """The process has ended: take its exit status, then release what it held (`_reap_dead`)."""
        del self._workers[worker.spec.index]
        self._watch.remove(worker.spec.index)
        reason = worker.why_ended(worker.child.close())
        if worker.front:
            worker.front.close()
        log.error("%s, pid %d, %s", worker.spec.name, worker.child.pid, reason)
        self._unreaped.append((worker, reason))

    def _reap_dead(self) -> None:
        """Releases the slots and pages of dead workers, tells the front end.

        Raises:
            PdrtError: there is no going on: a worker never came up, or dies again and again, or all
                GPU clients have failed.
        """
        for worker, reason in list(self._unreaped):
            instance, faulted = worker.instance, worker.faulted
            held = requests_held_by(self._ledger, instance)
            doubtful = requests_in(self._ledger, instance, faulted.rows if faulted else ())
            if self._ledger.reap(instance, keep_filled=faulted is None) is not Outcome.DONE:
                continue  # the lock is busy: in the next turn
            self._unreaped.remove((worker, reason))
            if not worker.is_ready and worker.incarnation == 1:
                raise worker.start_error(reason)
            if faulted and self._mps:
                raise faulted_under_mps(worker.spec, faulted)
            fault = faulted.fault if faulted else ""
            down = WorkerDown(worker.spec.index, instance, tuple(held), fault, tuple(doubtful))
            self._front.send(down)
            self._dead[worker.spec.name] = worker
            self._restarts.died(worker.spec.name, worker.is_ready, worker.last_words(reason))

    def _start_again(self) -> None:
        for name in self._restarts.are_due():
            worker = self._dead.pop(name)
            self._start_worker(worker.spec, worker.incarnation + 1)

    def _watch_over(self) -> None:
        pids = {worker.child.pid: worker for worker in self._workers.values()}
        stuck = self._watch.lock_holder()
        if stuck in pids:
            pids[stuck].kill("held the ledger's lock for too long")
        for index in self._watch.without_progress():
            self._workers[index].kill(
                f"made no progress for {self._server.watchdog_timeout:g} s (--watchdog-timeout)"
            )
        for worker in self._workers.values():
            if not worker.is_ready and time.monotonic() - worker.started > self._start_seconds:
                worker.kill(f"did not start within {self._start_seconds:.0f} s")
        self._watch.sweep_and_audit()

    # -- front end --------------------------------------------------------------------------------

    def _hear_front(self) -> bool:
        """False when it is gone or wants us to leave."""
        for message, _ in self._front.receive():
            if isinstance(message, Stop):
                return False
            if isinstance(message, Sweep):
                self._ledger.sweep()
        return not self._front.closed


def main() -> None:
    front, start, _ = process.begin("keeper", Start, die_with_parent=False)
    process.begin_work("keeper", start.server.log_level)
    try:
        serve(front, start.server)
    except Exception as error:
        log.error("%s", error)
        front.send(process.failure(error))


def serve(front: Channel, server: ServerSpec) -> None:
    """Fills the memory of a server and keeps it and its workers; returns when it is over."""
    parent, started = os.pidfd_open(os.getppid()), time.monotonic()
    with ExitStack() as stack:
        mps = start_mps(server)
        if mps:
            stack.enter_context(mps)  # left last: its clients end before
        # While the weights are loaded they import what they need, which takes as long.
        spawned = {spec.index: spawn_worker(server, spec, mps) for spec in server.workers}
        for child in spawned.values():
            stack.callback(child.close)
        filled = Loading(front, server, parent, mps).run()
        stack.callback(filled.slabs.close)
        Keeper(front, filled, mps, spawned).run(parent, time.monotonic() - started)


if __name__ == "__main__":
    main()
