"""One worker's turn: frames in, let go and take, plan, compute, read, report.

    receive -> settle -> plan -> launch -> run -> boundary -> report

The same for both phases; what differs is in the scheduler: `prefill_worker` and `decode_worker`
say how a phase listens and settles. Unified mode is one worker with both, whose step is the merge
of both plans, decode rows first. Knows no socket and no clock, so a test can run many workers turn
by turn in one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pdrt._C import FinishReason, Holder
from pdrt.messages import Message, Report
from pdrt.sched.held import HeldSlots
from pdrt.sched.plan import Plan, Result, Row, Sampled


class Runner(Protocol):
    """Computes a plan: one result for each row."""

    def run(self, plan: Plan) -> Sequence[Result]: ...


class Scheduler(Protocol):
    """What both schedulers have in common."""

    @property
    def held(self) -> HeldSlots: ...

    @property
    def has_work(self) -> bool: ...

    def plan(self, budget: int) -> Plan: ...


class Phase(Protocol):
    """One phase's part in a worker's turn: its scheduler, and how that listens and settles."""

    @property
    def scheduler(self) -> Scheduler: ...

    def hear(self, message: Message) -> None:
        """Frames of the other phase are none of its business."""

    def settle(self) -> Report:
        """Slots that changed at this step boundary."""


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
        self._unread: tuple[int, Plan, Sequence[Result]] | None = None

    @property
    def has_work(self) -> bool:
        return self._unread is not None or any(each.has_work for each in self._schedulers)

    def hear(self, message: Message) -> None:
        for phase in self._phases:
            phase.hear(message)

    def turn(self) -> tuple[list[Report], bool]:
        """Runs to the next step boundary.

        Returns:
            (what to tell the router, whether anything was computed)
        """
        self._holder.beat()
        reports = self._settle()
        if self._unread is None:
            self._step()
        computed = self._unread is not None
        read = self._read()
        if any(self._has_ended(slot) for slot in read.slots):
            # At once, so that the router finds a last token and the reason in one look.
            reports += self._settle()
        reports.append(read)
        return [report for report in reports if report.slots or report.preempted], computed

    def _settle(self) -> list[Report]:
        return [phase.settle() for phase in reversed(self._phases)]

    def _step(self) -> None:
        """Launches the merge of all phases' plans, if there is anything to compute."""
        plan = Plan()
        for scheduler in self._schedulers:
            plan += scheduler.plan(self._budget - plan.num_tokens)
        if plan:
            step = self._holder.launch()
            self._unread = (step, plan, self._runner.run(plan))

    def _read(self) -> Report:
        """Writes the results of the unread step to the ledger; if it is busy, in the next turn."""
        if self._unread is None:
            return Report(())
        step, plan, results = self._unread
        rows = [self._write(row, result) for row, result in zip(plan.rows, results, strict=True)]
        counted = self._holder.boundary(step, rows)
        if counted is None:
            return Report(())
        self._unread = None
        return Report(tuple(row.slot for row, good in zip(plan.rows, counted, strict=True) if good))

    def _has_ended(self, slot: int) -> bool:
        return any(each.held.has_ended(slot) for each in self._schedulers)

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
        reason = self._finish_reason(row.slot, sampled)
        token = -1 if reason is FinishReason.ERROR else sampled.token
        return row.slot, row.generation, row.end, token, sampled.logprob, reason

    def _finish_reason(self, slot: int, sampled: Sampled) -> FinishReason:
        """Whether this token is the last. A slot that was given up meanwhile will not count."""
        for scheduler in self._schedulers:
            held = scheduler.held.get(slot)
            if held is not None:
                return scheduler.held.finish_reason(held, sampled, self._eos)
        return FinishReason.NONE
