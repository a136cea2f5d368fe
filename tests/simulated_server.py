"""The in-process server as a simulation runs it: what the ledger answers is counted, and frames and
the ledger's lock fail as they may.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pdrt._C import FinishReason, Holder, Ledger, Outcome
from pdrt.messages import Role
from pdrt.wire import Message
from pdrt.worker.worker import Runner
from tests.in_process import Incarnation, InProcessServer

StepRow = tuple[int, int, int, int, float, FinishReason]


class WatchedHolder:
    """A holder that counts its answers; now and then another process has the lock."""

    def __init__(
        self, holder: Holder, tally: Counter[tuple[str, Outcome]], is_busy: Callable[[], bool]
    ) -> None:
        self.instance = holder.instance
        self.beat, self.launch, self.score = holder.beat, holder.launch, holder.score
        self.ready = holder.ready
        self._holder = holder
        self._tally = tally
        self._is_busy = is_busy

    def admit(self, slot: int, generation: int, *more: object) -> Outcome:
        return self._ask("admit", slot, generation, *more)

    def seal(self, slot: int) -> Outcome:
        return self._ask("seal", slot)

    def take(self, slot: int, generation: int) -> Outcome:
        return self._ask("take", slot, generation)

    def grow(self, slot: int, num_tokens: int, speculative: bool) -> Outcome:
        outcome = self._ask("grow", slot, num_tokens, speculative)
        self._tally["grow ahead", outcome] += speculative
        return outcome

    def let_go(self, slot: int) -> Outcome:
        return self._ask("let_go", slot)

    def finish(self, slot: int) -> Outcome:
        return self._ask("finish", slot)

    def abort(self, slot: int) -> Outcome:
        return self._ask("abort", slot)

    def boundary(self, step: int, rows: Sequence[StepRow]) -> list[bool] | None:
        counted = None if self._is_busy() else self._holder.boundary(step, rows)
        self._tally["boundary", Outcome.BUSY if counted is None else Outcome.DONE] += 1
        self._tally["row", Outcome.STALE] += (counted or []).count(False)
        return counted

    def _ask(self, operation: str, *args: object) -> Outcome:
        outcome = Outcome.BUSY if self._is_busy() else getattr(self._holder, operation)(*args)
        self._tally[operation, outcome] += 1
        return outcome


class SimulatedServer(InProcessServer):
    """`is_busy` and `is_lost` say whether the next ledger operation or frame fails."""

    def __init__(
        self,
        ledger: Ledger,
        roles: Sequence[Role],
        make_runner: Callable[[Holder], Runner],
        *,
        is_busy: Callable[[], bool],
        is_lost: Callable[[], bool],
        **limits: object,
    ) -> None:
        self.answers: Counter[tuple[str, Outcome]] = Counter()  # (operation, outcome)
        self.num_refused = self.num_lost = 0  # frames to workers, reports of workers
        self._is_busy = is_busy
        self._is_lost = is_lost
        super().__init__(ledger, roles, make_runner, **limits)

    def make_holder(self, instance: int) -> Holder:
        return WatchedHolder(super().make_holder(instance), self.answers, self._is_busy)

    def send(self, worker: Incarnation, message: Message) -> bool:
        """A frame to a worker that is dead already may be refused, or die unread."""
        if self._is_lost():
            self.num_refused += 1
            return False
        return super().send(worker, message)

    def deliver(self, worker: Incarnation) -> None:
        if worker.outbox and self._is_lost():
            worker.outbox.popleft()
            self.num_lost += 1
        super().deliver(worker)

    def tally(self) -> Counter[str]:
        """What the ledger answered and counted, and the frames that failed."""
        counters = self.ledger.counters()
        seen = Counter({f"{name} {outcome.name}": n for (name, outcome), n in self.answers.items()})
        for name in ("preempted", "evicted", "aborted", "reaped", "handed_off", "finished"):
            seen[name] = getattr(counters, name)
        seen["prefix hit"] = counters.prefix_hit_tokens
        seen["frame refused"], seen["report lost"] = self.num_refused, self.num_lost
        return seen
