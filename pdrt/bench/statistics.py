"""Confidence intervals of figures that have no formula for one, and what differs between runs.

Requests that ran beside each other waited for the same things, so they are not independent draws.
Resampling takes blocks of consecutive requests (Kuensch 1989, the moving-block bootstrap), of about
the cube root of their number, and where there are several runs, first runs and then blocks in
them. The interval is that of percentiles (Efron 1979).

One run knows nothing of what differs between runs, and two or three resampled ones hardly more: by
chance all are the same one. So where both sides have several runs, the interval of B / A is made
wide enough to hold Welch's as well, which takes each run's figure, by its logarithm, for one draw,
and knows by Student's t how little a few draws say.

In simulations at 99 % confidence, in which runs differed as much as requests, equal sides were
told apart in 0.3 to 0.7 % of cases with two to five runs a side; by the bootstrap alone in 25 %
with two, 13 % with three and 5 % with five; and with one run, whose spread is not known, in 80 %.
docs/benchmarking.md has the table for other spreads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LARGEST_EXPONENT = 700.0  # beyond it a float is infinite

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
    # One of the resamples, and not a point between two: a ratio may be infinite.
    low, high = np.quantile(resampled, [tail, 1 - tail], method="inverted_cdf")
    return Estimate(value, float(low), float(high))


def ratio(second: Values, first: Values) -> Values:
    """Infinite where only the first is 0; 1 where both are, as nothing differs then."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = second / first
    return np.where(first == 0, np.where(second == 0, 1.0, np.inf), found)


def student_t(probability: float, freedom: float) -> float:
    """The quantile of Student's t, for a probability of at least a half; `freedom` of 1 or more.

    With t = sqrt(freedom) tan(angle) the density becomes a power of the cosine, which is summed.
    """
    angles = np.linspace(0.0, math.pi / 2, 100_001)
    density = np.cos(angles) ** (freedom - 1)
    steps = (density[1:] + density[:-1]) / 2
    shares = 0.5 + np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum() / 2
    angle = float(np.interp(probability, shares, angles))
    return math.sqrt(freedom) * math.tan(angle)


def between_runs(first: Values, second: Values, confidence: float) -> tuple[float, float] | None:
    """Welch's interval of B / A from one figure a run; None where the figures have none.

    There is none with one run a side, and none of figures of 0, which have no logarithm.
    """
    sides = (first, second)
    if min(map(len, sides)) < 2 or min(map(min, sides)) <= 0:
        return None
    logs = [np.log(side) for side in sides]
    parts = [float(each.var(ddof=1)) / len(each) for each in logs]  # of the means' variance
    centre, variance = float(logs[1].mean() - logs[0].mean()), sum(parts)
    if variance == 0:
        return math.exp(centre), math.exp(centre)
    # Welch-Satterthwaite
    freedom = variance**2 / sum(p**2 / (len(e) - 1) for p, e in zip(parts, logs, strict=True))
    reach = student_t((1 + confidence) / 2, freedom) * math.sqrt(variance)
    return math.exp(centre - reach), math.exp(min(centre + reach, LARGEST_EXPONENT))


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
    """Resamples both sides independently of each other; figures are 0 or more."""
    rng = np.random.default_rng(seed)
    sides = (first, second)
    values = [statistic(np.concatenate([x for run in side for x in run])) for side in sides]
    drawn = [resample(side, statistic, rng) for side in sides]
    over = float(ratio(np.array(values[1]), np.array(values[0])))
    found = estimate(over, ratio(drawn[1], drawn[0]), confidence)
    one, other = (np.array([statistic(np.concatenate(run)) for run in side]) for side in sides)
    if runs := between_runs(one, other, confidence):
        found = Estimate(over, min(found.low, runs[0]), max(found.high, runs[1]))
    return Comparison(
        estimate(values[0], drawn[0], confidence),
        estimate(values[1], drawn[1], confidence),
        found,
    )
