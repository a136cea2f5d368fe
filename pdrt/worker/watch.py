"""What the keeper looks at all the time, and what it concludes.

- A worker whose progress word stands still for the watchdog's time is dead to us. The word moves
  with every layer and in every idle turn, so a long step is not taken for a dead one.
- A thread that has held the ledger's lock for LOCK_SECONDS is stuck; it is told by its id and the
  count of acquisitions, so that the same holding is meant, without taking the lock.
- The audit: every invariant of the ledger, and the pages' sum.

Time that the keeper itself did not run (a suspended machine, a stopped group) is nobody's fault and
is not counted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pdrt._C import Ledger, LockState

LOCK_SECONDS = 1.0
AUDIT_SECONDS = 0.25
AUDIT_SHARE = 0.02  # of the time, at most: it holds the lock, and looks at every page
LONGEST_TURN = 0.5  # a longer gap between two looks means that the keeper did not run

log = logging.getLogger("pdrt")


class Watch:
    """Looks at one ledger; `clock` gives seconds."""

    def __init__(
        self, ledger: Ledger, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._timeout = timeout
        self._clock = clock
        self._last_look = clock()
        self._lived = 0.0  # seconds that the keeper has run
        self._progress: dict[int, tuple[int, float]] = {}  # worker -> (word, when it moved last)
        self._lock: tuple[int, int, float] = (0, 0, 0.0)  # owner, acquisition, since
        self._next_audit = 0.0

    def add(self, worker: int) -> None:
        """From now on this worker must make progress."""
        self._progress[worker] = (self._ledger.progress(worker), self._now())

    def remove(self, worker: int) -> None:
        self._progress.pop(worker, None)

    def without_progress(self) -> list[int]:
        """Workers that stood still for the timeout. Each is told once."""
        now, stuck = self._now(), []
        for worker, (word, moved) in list(self._progress.items()):
            current = self._ledger.progress(worker)
            if current != word:
                self._progress[worker] = (current, now)
            elif now - moved > self._timeout:
                stuck.append(worker)
                self.remove(worker)
        return stuck

    def lock_holder(self) -> int | None:
        """The thread id of whoever has held the lock for too long."""
        state: LockState = self._ledger.lock_state()
        owner, acquisition, since = self._lock
        now = self._now()
        if state.owner == 0 or (state.owner, state.acquisition) != (owner, acquisition):
            self._lock = (state.owner, state.acquisition, now)
            return None
        return state.owner if now - since > LOCK_SECONDS else None

    def sweep_and_audit(self) -> None:
        """Releases aborted slots of nobody; checks all invariants when it is time to."""
        self._ledger.sweep()
        now = self._now()
        if now < self._next_audit:
            return
        audit = self._ledger.audit()
        if audit is None:
            return
        self._next_audit = now + max(AUDIT_SECONDS, (self._now() - now) / AUDIT_SHARE)
        for violation in audit.violations:
            log.error("ledger audit: %s", violation)

    def _now(self) -> float:
        look = self._clock()
        self._lived += min(look - self._last_look, LONGEST_TURN)
        self._last_look = look
        return self._lived
