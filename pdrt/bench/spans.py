"""Where time goes: exclusive seconds of named calls, taken by wrapping objects from outside.

A span's time is its own: what wrapped calls inside it took is theirs. So all spans of a step, and
what no span covers, add up to the step. A wrapped call costs some tenths of a microsecond more.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any


class Spans:
    """Times and counts by name."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._inner = [0.0]  # of each open span, seconds of the spans within it

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
                self._inner[-1] += seconds

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
