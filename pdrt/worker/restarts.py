"""When a dead worker is started again, and when that is of no use any more.

One that has served is started again at once; one that did not come up, after a pause that doubles.
A server whose workers cannot be kept alive ends, so that whoever runs it is told.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from pdrt.errors import EngineDead

MAX_DEATHS = 20  # of all workers, in WINDOW seconds; more is a crash loop
WINDOW = 60.0
MAX_FAILED_STARTS = 5  # of one worker in a row, however long each takes
SHORTEST_PAUSE = 0.5  # seconds


class Restarts:
    """Of the workers of one server; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: deque[float] = deque()
        self._failed_starts: Counter[str] = Counter()  # in a row, by worker
        self._due: dict[str, float] = {}

    def died(self, worker: str, came_up: bool, why: str) -> None:
        """It is to be started again, when `are_due` names it.

        Args:
            came_up: whether it had been ready.
            why: how it ended, in words.

        Raises:
            EngineDead: workers die too often, or this one does not come up.
        """
        now = self._clock()
        self._deaths.append(now)
        while self._deaths[0] <= now - WINDOW:
            self._deaths.popleft()
        if len(self._deaths) > MAX_DEATHS:
            raise EngineDead(
                f"workers died {len(self._deaths)} times in {WINDOW:.0f} s, {worker} the last: "
                f"{why}; giving up"
            )
        failed = self._failed_starts[worker] = 0 if came_up else self._failed_starts[worker] + 1
        if failed >= MAX_FAILED_STARTS:
            raise EngineDead(
                f"{worker} could not be started again, {failed} times in a row: {why}; giving up"
            )
        self._due[worker] = now + SHORTEST_PAUSE * 2 ** (failed - 1) if failed else now

    def are_due(self) -> list[str]:
        """Workers that are to be started now; each is named once."""
        now = self._clock()
        due = [worker for worker, at in self._due.items() if at <= now]
        for worker in due:
            del self._due[worker]
        return due
