"""When a decode worker starts its next step, if its readers need no more than a token so often.

A decode step of few rows reads every weight for few tokens, and prefill has one worker's cores less
meanwhile. With a target for the time per output token (TPOT), decode waits between steps as long as
the target allows, and lends its cores. It waits only while prefill computes: without prompts every
token comes as fast as it can, and so does the first after a rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pdrt._C import Ledger

# Of the target, what lies between the starts of two steps. The rest is for what makes a step end
# later than the one before did: a core comes back between two layers of prefill, a few milliseconds
# after it was asked for.
USED_SHARE = 0.9


class Pace:
    """The steps of one worker.

    Args:
        prefill: indexes of the workers that compute prompts, without this one.
        target: seconds for each token; None or 0: never wait.
        clock: in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        prefill: Sequence[int],
        target: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._prefill = prefill if target else ()
        self._interval = USED_SHARE * (target or 0.0)
        self._clock = clock
        self._next_start = 0.0

    def pause(self) -> float:
        """Seconds until the next step should start; 0 where no prompt gains by waiting."""
        if not any(self._ledger.is_computing(index) for index in self._prefill):
            return 0.0
        return max(0.0, self._next_start - self._clock())

    def start(self) -> None:
        """A step starts now."""
        if self._prefill:
            self._next_start = self._clock() + self._interval
