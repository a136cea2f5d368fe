"""What the keeper concludes from progress words, the lock and the audit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from pdrt._C import Ledger
from pdrt.worker.watch import LOCK_SECONDS, LONGEST_TURN, Watch
from tests.fixtures_clock import Clock


def pass_time(watch: Watch, clock: Clock, seconds: float, step: float = 0.1) -> list[int]:
    """The keeper's turns over some time; workers found without progress."""
    found = []
    for _ in range(round(seconds / step)):
        clock.now += step
        found += watch.without_progress()
    return found


def test_a_worker_that_stands_still_is_told_once(
    make_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    ledger = make_ledger()
    watch = Watch(ledger, 2.0, clock)
    watch.add(0)
    assert pass_time(watch, clock, 1.9) == []
    assert pass_time(watch, clock, 5.0) == [0]


def test_a_worker_that_moves_is_left_alone_however_long_its_step(
    make_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    ledger = make_ledger()
    watch = Watch(ledger, 2.0, clock)
    holder = ledger.holder(1 << 8)
    watch.add(0)
    for _ in range(10):
        assert pass_time(watch, clock, 1.5) == []
        holder.beat()


def test_time_that_the_keeper_did_not_run_is_nobodys_fault(
    make_ledger: Callable[..., Ledger], clock: Clock
) -> None:
    watch = Watch(make_ledger(), 2.0, clock)
    watch.add(0)
    clock.now += 3600.0  # the machine was suspended
    assert watch.without_progress() == []
    assert pass_time(watch, clock, 2.0 - 2 * LONGEST_TURN) == []
    assert pass_time(watch, clock, 2.0) == [0]


class SlowLedger:
    """A ledger of many pages, whose audit takes 0.1 s."""

    def __init__(self, clock: Clock) -> None:
        self.audits: list[float] = []
        self.violations: list[str] = []
        self._clock = clock

    def sweep(self) -> None:
        pass

    def audit(self) -> SlowLedger:
        self.audits.append(self._clock.now)
        self._clock.now += 0.1
        return self


def test_an_audit_takes_a_fiftieth_of_the_time_at_most(clock: Clock) -> None:
    ledger = SlowLedger(clock)
    watch = Watch(ledger, 10.0, clock)  # type: ignore[arg-type]
    for _ in range(200):
        watch.sweep_and_audit()
        clock.now += 0.1
    assert [round(b - a) for a, b in pairwise(ledger.audits)] == [5, 5, 5, 5]


class FakeLock:
    """A ledger whose lock state the test decides; the real one is in test_ledger_lock.py."""

    def __init__(self) -> None:
        self.owner, self.acquisition = 0, 0

    def lock_state(self) -> FakeLock:
        return self


def test_only_one_and_the_same_holding_counts(clock: Clock) -> None:
    lock = FakeLock()
    watch = Watch(lock, 10.0, clock)  # type: ignore[arg-type]
    lock.owner = 77
    for _ in range(100):  # the same thread, again and again
        lock.acquisition += 1
        clock.now += 0.1
        assert watch.lock_holder() is None
    for _ in range(round(LOCK_SECONDS / 0.1)):
        clock.now += 0.1
        assert watch.lock_holder() is None
    clock.now += 0.1
    assert watch.lock_holder() == 77
