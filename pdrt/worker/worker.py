"""One worker's turn: frames in, let go and take, plan, launch, read, report.

    receive -> settle -> plan -> launch -> read -> boundary -> report

The same for both phases; what differs is in the scheduler: `prefill_worker` and `decode_worker`
say how a phase listens and settles. Unified mode is one worker with both, whose step is the merge
of both plans, decode rows first. Knows no socket and no clock, so a test can run many workers turn
by turn in one process.

On a CPU a step is computed when it is launched, and read in the same turn. On a GPU two steps are
in flight: the host reads one while the device computes the next, which was planned before any token
of the first was known (pdrt.sched.plan). Nothing that settles waits for a step: pages that an
unread step may still write are kept by the ledger until that step was read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Protocol

from pdrt._C import FinishReason, Holder
from pdrt.messages import Report
from pdrt.sched.held import HeldSlots, finish_reason
from pdrt.sched.plan import Plan, Result, Row, Sampled, Unread
from pdrt.wire import Message


class Launched(Protocol):
    """A step on its way."""

    def read(self) -> Sequence[Result]:
        """Waits until it is computed; one result for each row of its plan."""


class Runner(Protocol):
    """Computes plans, in the order in which they are launched.

    Attributes:
        depth: how many steps may be in flight, 1 or 2: each launched, and not read.
    """

    @property
    def depth(self) -> int: ...

    def launch(self, plan: Plan) -> Launched: ...


class Scheduler(Protocol):
    """What both schedulers have in common."""

    @property
    def held(self) -> HeldSlots: ...

    @property
    def has_work(self) -> bool: ...

    def plan(self, budget: int, unread: Unread) -> Plan: ...


class Phase(Protocol):
    """One phase's part in a worker's turn: its scheduler, and how that listens and settles."""

    @property
    def scheduler(self) -> Scheduler: ...

    def hear(self, message: Message) -> None:
        """Frames of the other phase are none of its business."""

    def settle(self) -> Report:
        """Slots that changed at this step boundary."""


@dataclass(slots=True)
class _Step:
    """A step in flight; `results` are there once they were waited for."""

    number: int
    plan: Plan
    launched: Launched
    results: Sequence[Result] | None = None

    def wait(self) -> Sequence[Result]:
        if self.results is None:
            self.results = self.launched.read()
        return self.results


class Worker:
    """Schedulers, holder and runner of one worker instance.

    `phases` are in the order of a step's rows: decode before prefill. They settle the other way
    round, so that what prefill has just sealed is in the next decode step.
    """

    def __init__(
        self,
        holder: Holder,
        runner: Runner,
        phases: Sequence[Phase],
        max_num_batched_tokens: int,
        eos_token_ids: Sequence[int],
    ) -> None:
        self._holder = holder
        self._runner = runner
        self._phases = phases
        self._schedulers = [phase.scheduler for phase in phases]
        self._budget = max_num_batched_tokens
        self._eos = frozenset(eos_token_ids)
        self._in_flight: deque[_Step] = deque()  # in launch order

    @property
    def has_work(self) -> bool:
        return bool(self._in_flight) or any(each.has_work for each in self._schedulers)

    def hear(self, message: Message) -> None:
        for phase in self._phases:
            phase.hear(message)

    def turn(self) -> tuple[list[Report], bool]:
        """Launches a step if there is room for it and anything to compute, then reads the oldest.

        The first of two steps is not waited for: the second is launched before, in the next turn.

        Returns:
            (what to tell the router, whether any step is or was in flight)
        """
        self._holder.beat()
        reports = self._settle()
        launched = self._has_room() and self._launch()
        computed = bool(self._in_flight)
        if not (launched and self._has_room()):
            read, any_ended = self._read()
            if any_ended:
                # At once, so that the router finds a last token and the reason in one look.
                reports += self._settle()
            reports.append(read)
        return [report for report in reports if report.slots or report.preempted], computed

    def _settle(self) -> list[Report]:
        return [phase.settle() for phase in reversed(self._phases)]

    def _has_room(self) -> bool:
        """Whether a step may be launched before the oldest in flight is read.

        Where a token is chosen by those before it, the host must know these first.
        """
        if not self._in_flight:
            return True
        has_room = len(self._in_flight) < self._runner.depth
        return has_room and not any(each.held.reads_tokens for each in self._schedulers)

    def _launch(self) -> bool:
        """Launches the merge of all phases' plans, if there is anything to compute."""
        unread = {row.key: row.end for step in self._in_flight for row in step.plan.rows}
        plan = Plan()
        for scheduler in self._schedulers:
            plan += scheduler.plan(self._budget - plan.num_tokens, unread)
        if plan:
            number = self._holder.launch()
            self._in_flight.append(_Step(number, plan, self._runner.launch(plan)))
        return bool(plan)

    def _read(self) -> tuple[Report, bool]:
        """Writes the results of the oldest step to the ledger; if it is busy, in the next turn.

        Rows whose request has ended or was given up since their launch do not count.

        Returns:
            (the slots that got something, whether any of them got its last token)
        """
        if not self._in_flight:
            return Report(()), False
        step = self._in_flight[0]
        rows = step.plan.rows
        written = [self._write(row, got) for row, got in zip(rows, step.wait(), strict=True)]
        counted = self._holder.boundary(step.number, written)
        if counted is None:
            return Report(()), False
        self._in_flight.popleft()
        good = list(compress(written, counted))
        any_ended = any(reason is not FinishReason.NONE for *_, reason in good)
        return Report(tuple(slot for slot, *_ in good)), any_ended

    def _write(self, row: Row, result: Result) -> tuple[int, int, int, int, float, FinishReason]:
        """Writes a row's scores; what is left is the row as the ledger takes it.

        Its token is -1 where there is none.
        """
        for each in result.scores:
            self._holder.score(
                row.slot,
                row.generation,
                each.start,
                each.logprobs,
                each.top_ids,
                each.top_logprobs,
            )
        sampled = result.sampled
        if sampled is None:
            return row.slot, row.generation, row.end, -1, 0.0, FinishReason.NONE
        reason = self._finish_reason(row, sampled)
        token = -1 if reason is FinishReason.ERROR else sampled.token
        return row.slot, row.generation, row.end, token, sampled.logprob, reason

    def _finish_reason(self, row: Row, sampled: Sampled) -> FinishReason:
        """Whether this token is the last. A slot that was given up meanwhile will not count."""
        for scheduler in self._schedulers:
            held = scheduler.held.get(row.slot, row.generation)
            if held is not None:
                return finish_reason(held, row, sampled, self._eos)
        return FinishReason.NONE
