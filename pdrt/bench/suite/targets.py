"""What was wanted against what was measured: for each target met, passed, or missed by how much.

A target names a measure. Bench results have rows, and a row names the measure it is of. Of several
rows of one measure the worst counts. Figures that no GPU gave are not held against targets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure of a row, by its dotted name, and the least (or most) that it should be."""

    field: str
    value: float
    at_most: bool = False

    def of(self, row: Mapping[str, Any]) -> float | None:
        """The row's figure; None where the row has none."""
        found: Any = row
        for name in self.field.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, int | float) else None

    def shortfall(self, value: float) -> float:
        """By what share of the bound it is missed; 0 or less where it is met."""
        over = value - self.value if self.at_most else self.value - value
        return over / self.value

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Target:
    measure: str
    what: str
    passing: Bound
    goal: Bound | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target with what was measured; `value` is None where nothing was."""

    what: str
    measure: str
    passing: str
    goal: str
    value: float | None
    verdict: str


def read_targets(path: Path) -> list[Target]:
    return [_target(entry) for entry in json.loads(path.read_text())["targets"]]


def _target(entry: Mapping[str, Any]) -> Target:
    passing, *goals = _bounds(entry)
    if "goal" in entry:
        goals = _bounds(entry["goal"])
    return Target(entry["measure"], entry["what"], passing, goals[0] if goals else None)


def _bounds(entry: Mapping[str, Any]) -> list[Bound]:
    kind = "at_most" if "at_most" in entry else "at_least"
    values = entry[kind] if isinstance(entry[kind], list) else [entry[kind]]
    return [Bound(entry["field"], float(value), kind == "at_most") for value in values]


def measured_rows(results: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by the measure they name, of results that a GPU gave."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        rows = result.get("rows") if result.get("gpu") else None
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and isinstance(row.get("measure"), str):
                found.setdefault(row["measure"], []).append(row)
    return found


def verdicts(targets: Sequence[Target], results: Iterable[Mapping[str, Any]]) -> list[Verdict]:
    rows = measured_rows(results)
    return [_verdict(target, rows.get(target.measure, [])) for target in targets]


def _verdict(target: Target, rows: Sequence[Mapping[str, Any]]) -> Verdict:
    def said(value: float | None, verdict: str) -> Verdict:
        goal = _shown(target.goal, target.passing)
        return Verdict(target.what, target.measure, str(target.passing), goal, value, verdict)

    if not rows:
        return said(None, "not measured")
    valued = [(value, row) for row in rows if (value := target.passing.of(row)) is not None]
    if len(valued) < len(rows):
        errors = [str(row["error"]) for row in rows if "error" in row]
        return said(None, f"failed: {errors[0]}" if errors else f"no {target.passing.field}")
    value, row = max(valued, key=lambda pair: target.passing.shortfall(pair[0]))
    missed = target.passing.shortfall(value)
    if missed > 0:
        return said(value, f"missed by {missed:.0%}" if missed >= 0.005 else "missed by under 1%")
    return said(value, f"passed{_towards(target.goal, row)}")


def _towards(goal: Bound | None, row: Mapping[str, Any]) -> str:
    reached = goal.of(row) if goal else None
    if goal is None or reached is None:
        return ""
    missed = goal.shortfall(reached)
    return ", goal met" if missed <= 0 else f"; {missed:.0%} from the goal"


def _shown(goal: Bound | None, passing: Bound) -> str:
    if goal is None:
        return ""
    return str(goal) if goal.field == passing.field else f"{goal.field} {goal}"
