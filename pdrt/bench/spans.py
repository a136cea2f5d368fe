"""Where time goes: exclusive seconds of named calls, taken by wrapping objects from outside.

A span's time is its own: what wrapped calls inside it took is theirs. What the timing itself takes,
about a microsecond a call, is nobody's: it is measured once and taken off. So all spans of a step,
what no span covers, and the timing of its calls add up to the step.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

CALIBRATIONS, CALLS = 20, 500


class Spans:
    """Times and counts by name.

    Attributes:
        overhead: seconds that timing a call takes beside the call; the least that was seen, and so
            rather too little where caches are cold.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._inner = [0.0]  # of each open span, seconds that are not its own
        self.overhead = 0.0
        self.overhead = min(self._calibrate() for _ in range(CALIBRATIONS))
        self.clear()

    def _calibrate(self) -> float:
        timed = self.around("calibration", lambda: None)
        self.clear()
        start = time.perf_counter()
        for _ in range(CALLS):
            timed()
        return (time.perf_counter() - start - self.seconds["calibration"]) / CALLS

    @property
    def total_overhead(self) -> float:
        """Seconds that timing took, of all calls."""
        return self.overhead * self.calls.total()

    def clear(self) -> None:
        self.seconds.clear()
        self.calls.clear()

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed under this name."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - start
                self.seconds[name] += seconds - self._inner.pop()
                self.calls[name] += 1
                self._inner[-1] += seconds + self.overhead

        return timed

    def proxy(self, prefix: str, target: Any) -> Any:
        """Stands for an object or module; its methods are timed as "PREFIX: method"."""
        return _Proxy(self, prefix, target)


class _Proxy:
    def __init__(self, spans: Spans, prefix: str, target: Any) -> None:
        self._spans = spans
        self._prefix = prefix
        self._target = target

    def __getattr__(self, name: str) -> Any:
        """Asked once for each method: what is found is kept."""
        value = getattr(self._target, name)
        if not callable(value):
            return value
        timed = self._spans.around(f"{self._prefix}: {name}", value)
        setattr(self, name, timed)
        return timed
