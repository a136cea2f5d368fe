"""Keeps the record of every request from front door to last token.

    submit -> waiting for a slot -> told to prefill -> told to decode -> finished
                                        ^                  |
                                        `---- preempted, or its worker died

The router claims slots, tells workers of them, emits what the ledger says was read, and ends them;
it never takes the ledger's lock. It looks at slots when a worker reports, and at all of them in
every `tick`, so a lost frame costs time and nothing else. Runs in the front end, in one thread;
knows no socket and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from pdrt._C import FinishReason, Ledger, Phase
from pdrt.errors import InvalidRequest, Overloaded, PdrtError
from pdrt.messages import Report, Role
from pdrt.records import Record, why_given_up
from pdrt.request import Request
from pdrt.telling import Send, Workers
from pdrt.updates import Sink, Update, read_update
from pdrt.waiting import WaitingQueue


class Router:
    """All requests of one front end."""

    def __init__(self, ledger: Ledger, max_queued: int, sweep: Callable[[], object]) -> None:
        self._ledger = ledger
        self._max_queued = max_queued
        self._sweep = sweep
        self._workers = Workers()
        self._requests: dict[str, Record] = {}  # not ended
        self._slots: dict[int, Record] = {}  # not EMPTY, as far as we know
        self._waiting = WaitingQueue()
        self._num_arrived = 0

    @property
    def num_requests(self) -> int:
        """Requests that have not had their last update."""
        return len(self._requests)

    @property
    def num_waiting(self) -> int:
        """Of them, those that no worker holds: without a slot, or QUEUED, for the first time or
        again."""
        running = [slot for slot, record in self._slots.items() if not record.ended]
        queued = sum(self._ledger.word(slot).phase is Phase.QUEUED for slot in running)
        return len(self._waiting) + queued

    @property
    def is_idle(self) -> bool:
        """No request is running and every slot is EMPTY again."""
        return not self._requests and not self._slots

    # -- requests ---------------------------------------------------------------------------------

    def submit(self, request: Request, sink: Sink) -> None:
        """Takes a request that was validated.

        Raises:
            Overloaded: as many requests wait as may.
            InvalidRequest: a request of this id is running.
        """
        if len(self._waiting) >= self._max_queued:
            raise Overloaded(
                f"{len(self._waiting)} requests are waiting, the limit of --max-queued-requests; "
                "try again later"
            )
        if request.request_id in self._requests:
            raise InvalidRequest(
                f"request_id {request.request_id!r} is running already; give another", "request_id"
            )
        record = Record(request, self._num_arrived, sink)
        self._num_arrived += 1
        self._requests[request.request_id] = record
        leader = self._requests.get(request.leader or "")
        if leader and leader.num_emitted == 0:
            self._waiting.keep_back(record, leader)
        else:
            self._waiting.push(record)
        self._claim_slots()

    def abort(self, request_id: str, sink: Sink | None = None) -> bool:
        """Ends a request, and all that follow it, at its client's wish; False if there is none.

        With a sink, only the request of that sink is meant: its id may be another's by now, and
        those that follow it go on.
        """
        records: list[Record] = []
        if sink is None:  # not for each stream that ends: this looks at all requests
            running = self._requests.values()
            records = [each for each in running if each.request.leader == request_id]
        own = self._requests.get(request_id)
        if own and sink in (None, own.sink):
            records.append(own)
        for record in records:
            self._end(record, Update(finish_reason="abort"))
        self._claim_slots()
        return bool(records)

    def fail_all(self, error: PdrtError) -> None:
        """The engine is dead: one last update for everybody."""
        for record in list(self._requests.values()):
            self._finish(record, Update(error=error))

    # -- workers ----------------------------------------------------------------------------------

    def worker_up(self, instance: int, role: Role, send: Send) -> None:
        self._workers.add(instance, role, send)
        self.tick()

    def worker_down(
        self, instance: int, held: Collection[int], fault: str = "", faulted: Collection[int] = ()
    ) -> None:
        """The keeper has released requests, by number; a fault of the GPU ends those it befell."""
        self._workers.remove(instance)
        for record in [each for each in self._slots.values() if each.number in held]:
            self._look(record)  # a token that nobody reported was not fruitless
            record.fruitless_deaths += 1
            error = why_given_up(record, fault if record.number in faulted else "")
            if error and not record.ended:
                self._end(record, Update(error=error))
        self.tick()

    def hear(self, report: Report) -> None:
        """A worker says which slots changed."""
        for slot in report.slots:
            if record := self._slots.get(slot):
                self._look(record)
        if report.preempted:
            self.tick()
        else:
            self._claim_slots()

    def tick(self) -> None:
        """Looks at every slot: repeats what was lost, whatever it was."""
        for record in list(self._slots.values()):
            self._look(record)
        self._claim_slots()

    # -- one slot ---------------------------------------------------------------------------------

    def _claim_slots(self) -> None:
        while record := self._waiting.oldest():
            request = record.request
            claimed = self._ledger.claim(
                record.number,
                record.rank,
                np.asarray(request.prompt_token_ids, dtype=np.int32),
                request.max_tokens,
                record.slot_params,
                reuse=request.params.prompt_logprobs is None,
            )
            if claimed is None:
                return
            self._waiting.pop()
            record.slot = claimed[0]
            self._slots[record.slot] = record
            self._look(record)

    def _look(self, record: Record) -> None:
        """Emits what is new in the slot, moves it on where that is the router's part."""
        # Before the tokens: FINISHED means they are all there.
        word = self._ledger.word(record.slot)
        phase = word.phase  # looked up once: each time makes a Python enum
        if not record.ended:
            self._emit(record, phase)
        if phase is Phase.EMPTY:
            self._forget(record)
        elif phase is Phase.FINISHED:
            self._ledger.end(record.slot, word.generation)
            self._forget(record)
        elif record.ended and not word.abort:
            self._mark_abort(record)
        elif not record.ended:
            self._workers.tell(record.slot, word, phase)

    def _emit(self, record: Record, phase: Phase) -> None:
        info, start = self._ledger.info(record.slot), record.num_emitted
        reason = info.finish_reason if phase is Phase.FINISHED else FinishReason.NONE
        if info.num_output_tokens == start and reason is FinishReason.NONE:
            return
        update = read_update(self._ledger, record.slot, info, record.request.params, start, reason)
        record.num_emitted += len(update.token_ids)
        record.fruitless_deaths = 0
        self._waiting.let_in(record)
        if update.is_last:
            self._finish(record, update)
        else:
            record.sink(update)

    def _mark_abort(self, record: Record) -> None:
        """Marks the slot and wakes whoever is to release it. What fails is repeated by `tick`."""
        word = self._ledger.word(record.slot)
        is_marked = self._ledger.mark_abort(record.slot, word.generation)
        if is_marked and not self._workers.wake(word.holder):
            self._sweep()

    def _end(self, record: Record, update: Update) -> None:
        """Ends a request that may still run."""
        self._finish(record, update)
        if record.slot < 0:
            self._waiting.remove(record)
        else:
            self._look(record)

    def _finish(self, record: Record, update: Update) -> None:
        """The one place where a request gets its last update."""
        record.ended = True
        del self._requests[record.request.request_id]
        self._waiting.let_in(record)
        record.sink(update)

    def _forget(self, record: Record) -> None:
        """The slot is EMPTY."""
        assert record.ended, f"slot {record.slot} was emptied under a running request"
        self._workers.forget(record.slot)
        del self._slots[record.slot]
