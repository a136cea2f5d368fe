"""Whether a server's workers move on, as readiness means it.

Each worker counts the steps that it has begun, and has a word that moves with every layer of a
step; but the word moves in idle turns as well, so it counts only for one that was computing at the
last look and still is: a step may take longer than any limit, and requests that wait for pages
without end may not pass for work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pdrt._C import Ledger


class Movement:
    """Looks at the workers of a ledger now and then; `clock` gives seconds."""

    def __init__(
        self, ledger: Ledger, workers: Sequence[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._workers = workers
        self._clock = clock
        self._moved = clock()
        self._steps: list[int] = []
        self._computing: dict[int, int] = {}  # worker -> its word at the last look

    def look(self, is_idle: bool) -> None:
        """Time in which nobody has asked for anything (`is_idle`) is no standstill."""
        if self._has_moved() or is_idle:
            self._moved = self._clock()

    @property
    def seconds_still(self) -> float:
        """Since something was last seen to move."""
        return self._clock() - self._moved

    def _has_moved(self) -> bool:
        ledger, before = self._ledger, self._computing
        steps = [ledger.steps(worker) for worker in self._workers]
        began, self._steps = steps != self._steps, steps
        computing = [worker for worker in self._workers if ledger.is_computing(worker)]
        self._computing = {worker: ledger.progress(worker) for worker in computing}
        return began or any(before.get(i, word) != word for i, word in self._computing.items())
