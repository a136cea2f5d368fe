"""What a sweep has measured, and what follows from it: the highest rate that keeps its promise.

A point is one load of one server at one rate in one round. Of the rounds of a rate the mean counts;
the highest rate is read between the last rate that attains enough and the first that does not, on
the straight line through both. Points keep the times of each request, so that other limits can
judge them afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pdrt.bench.load.metrics import Objectives

Point = Mapping[str, Any]  # server, rate, round, slo_attainment, requests_ms, ...


@dataclass(frozen=True, slots=True)
class Highest:
    """The highest rate of a server that attains enough.

    rate: None where not even the lowest one does. is_bound: no rate was too high, so that the true
    one is at least this. by_round: the same of each round alone, which tells the spread.
    """

    rate: float | None
    is_bound: bool
    by_round: Sequence[float | None]

    def __str__(self) -> str:
        if self.rate is None:
            return "below the lowest"
        return f"{'>= ' if self.is_bound else ''}{self.rate:.3g}"


def by_rate(points: Iterable[Point], figure: str) -> list[tuple[float, float]]:
    """(rate, mean of the rounds), ascending."""
    found: dict[float, list[float]] = {}
    for point in points:
        found.setdefault(point["rate"], []).append(point[figure])
    return [(rate, fmean(values)) for rate, values in sorted(found.items())]


def crossing(curve: Sequence[tuple[float, float]], wanted: float) -> tuple[float | None, bool]:
    """Where attainment falls below `wanted`; the rate, and whether it is a lower bound only."""
    last: tuple[float, float] | None = None
    for rate, attained in curve:
        if attained < wanted:
            if last is None:
                return None, False
            share = (last[1] - wanted) / (last[1] - attained)
            return last[0] + share * (rate - last[0]), False
        last = (rate, attained)
    return (None, False) if last is None else (last[0], True)


def highest(points: Sequence[Point], wanted: float) -> Highest:
    """Of one server's points."""
    rate, is_bound = crossing(by_rate(points, "slo_attainment"), wanted)
    rounds = sorted({point["round"] for point in points})
    alone = [
        crossing(by_rate([p for p in points if p["round"] == each], "slo_attainment"), wanted)[0]
        for each in rounds
    ]
    return Highest(rate, is_bound, alone)


def under(points: Iterable[Point], objectives: Objectives) -> list[Point]:
    """The points as other limits judge them."""
    judged: list[Point] = []
    for point in points:
        kept = [objectives.are_kept(times) for times in point["requests_ms"]]
        judged.append({**point, "slo_attainment": fmean(kept)})
    return judged


def between(points: Sequence[Point], wanted: float) -> float | None:
    """The rate to measure next: amid the last that attains enough and the first that does not.

    None where all, or none, of the rates do.
    """
    curve = by_rate(points, "slo_attainment")
    for (low, good), (high, bad) in zip(curve, curve[1:], strict=False):
        if good >= wanted > bad:
            return round((low + high) / 2, 4)
    return None
