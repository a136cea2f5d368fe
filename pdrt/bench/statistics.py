"""Confidence intervals of figures that have no formula for one: the bootstrap.

Requests that ran beside each other waited for the same things, so they are not independent draws.
Resampling takes blocks of consecutive requests (Kuensch 1989, the moving-block bootstrap), of about
the cube root of their number, and where there are several runs, first runs and then blocks in
them. The interval is that of percentiles (Efron 1979). One run knows nothing of what differs
between runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000

Values = np.ndarray  # [count] float64
Statistic = Callable[[Values], float]
Sample = Sequence[Sequence[Values]]  # of each run, of each of its requests in order


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that its resamples fill, but for the tails."""

    value: float
    low: float
    high: float

    def has(self, value: float) -> bool:
        return self.low <= value <= self.high


def resample(sample: Sample, statistic: Statistic, rng: np.random.Generator) -> Values:
    """The statistic of RESAMPLES samples that might as well have been seen: [RESAMPLES]."""
    return np.array([statistic(_again(sample, rng)) for _ in range(RESAMPLES)])


def _again(sample: Sample, rng: np.random.Generator) -> Values:
    runs = rng.integers(len(sample), size=len(sample))
    picked = [sample[run][at] for run in runs for at in blocks(len(sample[run]), rng)]
    return np.concatenate(picked)


def blocks(count: int, rng: np.random.Generator) -> Values:
    """Indices of `count` requests in blocks of consecutive ones, which go round at the end."""
    length = max(1, round(count ** (1 / 3)))
    starts = rng.integers(count, size=-(-count // length))
    indices: Values = (starts[:, None] + np.arange(length)) % count
    return indices.ravel()[:count]


def estimate(value: float, resampled: Values, confidence: float) -> Estimate:
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides of one figure, and the second over the first."""

    first: Estimate
    second: Estimate
    ratio: Estimate

    @property
    def is_noise(self) -> bool:
        """Whether the sides may as well be equal."""
        return self.ratio.has(1.0)


def compare(
    first: Sample, second: Sample, statistic: Statistic, confidence: float, seed: int
) -> Comparison:
    """Resamples both sides independently of each other; figures must be above 0."""
    rng = np.random.default_rng(seed)
    values = [
        statistic(np.concatenate([x for run in side for x in run])) for side in (first, second)
    ]
    drawn = [resample(side, statistic, rng) for side in (first, second)]
    tiny = np.finfo(float).tiny
    ratios = drawn[1] / np.maximum(drawn[0], tiny)
    return Comparison(
        estimate(values[0], drawn[0], confidence),
        estimate(values[1], drawn[1], confidence),
        estimate(values[1] / max(values[0], tiny), ratios, confidence),
    )
