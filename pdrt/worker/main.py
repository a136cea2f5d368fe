"""A worker process: maps what the keeper made, then takes turns until its channels close.

python -m pdrt.worker.main          started by the keeper, never by hand
"""

from __future__ import annotations

import gc
import logging
import os
import select
from pathlib import Path
from typing import NamedTuple

from pdrt._C import Holder, Ledger
from pdrt.messages import Faulted, Ready, ServerSpec, Work
from pdrt.model.layout import WeightFormat
from pdrt.runner.runner import Runner
from pdrt.runner.shape import ServerShape
from pdrt.sched.decode import DecodeScheduler
from pdrt.sched.prefill import CopyPage, PrefillScheduler
from pdrt.worker import process
from pdrt.worker.channel import Channel
from pdrt.worker.cores import Cores
from pdrt.worker.decode_worker import DecodePhase
from pdrt.worker.faults import WitnessedRunner, device_fault
from pdrt.worker.pace import Pace
from pdrt.worker.prefill_worker import PrefillPhase
from pdrt.worker.slabs import attach
from pdrt.worker.worker import Phase, Worker

FAULT_EXIT_CODE = 70  # EX_SOFTWARE: of a worker whose device has failed
IDLE_SECONDS = 0.5  # an idle worker still beats, so that a stopped one is found
STARVED_SECONDS = (0.001, 0.016)  # work that cannot run now, as pages or the lock are others':
# looked at again after the first, then at doubled times up to the second

log = logging.getLogger("pdrt")


def make_phases(work: Work, ledger: Ledger, holder: Holder, copy_page: CopyPage) -> list[Phase]:
    """The role's phases, in the order of a step's rows."""
    limit = work.server.max_num_seqs
    decode = DecodeScheduler(ledger, holder, limit)
    prefill = PrefillScheduler(ledger, holder, limit, copy_page)
    if work.worker.role == "prefill":
        return [PrefillPhase(prefill)]
    if work.worker.role == "decode":
        return [DecodePhase(decode)]
    return [DecodePhase(decode), PrefillPhase(prefill, on_sealed=decode.tell)]


class Made(NamedTuple):
    """The parts of a worker process."""

    worker: Worker
    runner: WitnessedRunner
    cores: Cores
    pace: Pace
    front: Channel


def make_worker(work: Work, fds: list[int]) -> Made:
    """Maps weights, KV memory and ledger, and makes the worker and its channel to the front end."""
    ledger_fd, front_fd, *slab_fds = fds
    server = work.server
    ledger = Ledger.attach(ledger_fd)
    holder = ledger.holder(work.instance)
    cores = _cores(server, ledger, holder)
    weights, kv = attach(server, slab_fds, work.handles)
    runner = Runner.create(
        Path(server.folder),
        WeightFormat.of(server),
        weights=weights,
        kv=kv,
        ledger=ledger,
        threads=1,  # torch's own: what is worth sharing out goes to `cores`
        on_layer=cores.at_layer,
        shape=ServerShape.of(server),
    )
    for fd in (ledger_fd, *slab_fds):
        os.close(fd)
    runner.warm_up(work.worker.role)
    phases = make_phases(work, ledger, holder, runner.copy_page)
    witnessed = WitnessedRunner(runner)
    budget, ends = server.max_num_batched_tokens, runner.eos_token_ids
    worker = Worker(holder, witnessed, phases, budget, ends)
    return Made(worker, witnessed, cores, _pace(work, ledger), Channel.of_fd(front_fd))


def _cores(server: ServerSpec, ledger: Ledger, holder: Holder) -> Cores:
    """On a GPU the threads of a worker are few and wait, and go where the system puts them."""
    owned = [each.cores for each in server.workers]
    on_cpu = server.device == "cpu"
    pinned, lending = on_cpu and server.pin_threads, on_cpu and server.lend_cores
    return Cores(ledger, holder, owned, pinned=pinned, lending=lending)


def _pace(work: Work, ledger: Ledger) -> Pace:
    """Only decode waits, and only for those that do nothing but prefill."""
    target = work.server.tpot_target_ms
    if target is None or work.worker.role != "decode":
        return Pace(ledger, [], None)
    prefill = [each.index for each in work.server.workers if each.role == "prefill"]
    return Pace(ledger, prefill, target / 1000)


def take_turns(made: Made, keeper: Channel) -> None:
    """Returns when either channel has closed."""
    worker, cores, pace, front = made.worker, made.cores, made.pace, made.front
    timeout = 0.0
    while True:
        readable, _, _ = select.select(
            [keeper, front], [front] if front.wants_write else [], [], timeout
        )
        if keeper in readable:
            keeper.receive()
        for message, _ in front.receive() if front in readable else ():
            worker.hear(message)
        if keeper.closed or front.closed:
            return
        if worker.has_work:
            if pause := pace.pause():
                timeout = pause
                cores.claim(False)
                front.flush()
                continue
            pace.start()
        cores.claim(worker.has_work)
        reports, computed = worker.turn()
        cores.claim(computed)
        for report in reports:
            front.send(report)
        front.flush()
        timeout = wait_after(timeout, bool(computed or reports), worker.has_work)


def wait_after(waited: float, moved: bool, has_work: bool) -> float:
    """Seconds until the next turn if no frame comes before, given those before this one."""
    if moved:
        return 0.0
    if not has_work:
        return IDLE_SECONDS
    shortest, longest = STARVED_SECONDS
    return shortest if waited >= IDLE_SECONDS else min(longest, max(shortest, 2 * waited))


def end_by_fault(error: Exception, runner: WitnessedRunner, keeper: Channel) -> None:
    """Reports a fault of the device and ends the process; returns from all other errors.

    At once: what an orderly end gives back needs the context that is lost, and may wait for it.
    """
    fault = device_fault(error)
    if fault is None:
        return
    log.error("the device has failed: %s", error)
    rows = {(row.slot, row.generation) for row in runner.rows()}
    keeper.send(Faulted(fault, tuple(rows)))
    os._exit(FAULT_EXIT_CODE)


def main() -> None:
    keeper, work, fds = process.begin("worker", Work)
    process.begin_work(work.worker.name, work.server.log_level)
    try:
        made = make_worker(work, fds)
    except Exception as error:
        keeper.send(process.failure(error))
        raise
    gc.collect()
    gc.freeze()  # the modules' objects: a full collection over them takes as long as a step
    keeper.send(Ready())
    try:
        take_turns(made, keeper)
    except Exception as error:
        end_by_fault(error, made.runner, keeper)
        raise


if __name__ == "__main__":
    main()
