"""Which figures two result files are compared by, and how these are read from the files' lists.

Only lists are read that vLLM's result files (--save-detailed) have as well, so those compare too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdrt.bench.statistics import Statistic, Values

WINDOWS = 20  # parts of a run's time, whose throughputs are its sample

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. `values` gives, of each request (or window), the values it adds."""

    name: str
    values: Callable[[Result], list[Values]]
    statistic: Statistic
    higher_is_better: bool = False


def ttfts(result: Result) -> list[Values]:
    return [np.array([result["ttfts"][i] * 1e3]) for i in completed(result)]


def gaps(result: Result) -> list[Values]:
    """Without the requests of one token, which have none."""
    return [np.array(result["itls"][i]) * 1e3 for i in completed(result) if result["itls"][i]]


def tpots(result: Result) -> list[Values]:
    return [
        np.array([sum(result["itls"][i]) * 1e3 / (result["output_lens"][i] - 1)])
        for i in completed(result)
        if result["output_lens"][i] > 1
    ]


def latencies(result: Result) -> list[Values]:
    return [
        np.array([(result["ttfts"][i] + sum(result["itls"][i])) * 1e3]) for i in completed(result)
    ]


def throughputs(result: Result) -> list[Values]:
    """Output tokens a second, of WINDOWS equal parts of the time from first to last token."""
    times = np.sort(np.concatenate([token_times(result, i) for i in completed(result)]))
    span = times[-1] - times[0]
    if span <= 0:
        return []
    counts, _ = np.histogram(times, bins=WINDOWS)
    return [np.array([count * WINDOWS / span]) for count in counts]


def token_times(result: Result, i: int) -> Values:
    """Seconds after the run's start at which a request's tokens came."""
    # Our times count from the schedule, vLLM's from the sending.
    delay = result["queue_times"][i] if "times_from" in result else 0.0
    first = result["start_times"][i] - delay + result["ttfts"][i]
    times: Values = np.cumsum([first, *result["itls"][i]])
    return times


def completed(result: Result) -> list[int]:
    return [i for i, error in enumerate(result["errors"]) if not error]


def percentile(p: float) -> Statistic:
    return lambda values: float(np.percentile(values, p))


def mean(values: Values) -> float:
    return float(values.mean())


MEASURES: Sequence[Measure] = (
    Measure("output tok/s", throughputs, mean, higher_is_better=True),
    Measure("TTFT mean", ttfts, mean),
    Measure("TTFT p50", ttfts, percentile(50)),
    Measure("TTFT p99", ttfts, percentile(99)),
    Measure("TPOT mean", tpots, mean),
    Measure("TPOT p99", tpots, percentile(99)),
    Measure("ITL p50", gaps, percentile(50)),
    Measure("ITL p99", gaps, percentile(99)),
    Measure("E2EL mean", latencies, mean),
    Measure("E2EL p99", latencies, percentile(99)),
)
