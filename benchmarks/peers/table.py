"""Results as text: who agreed with whom, medians side by side, ratios and what they were to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.agreement import Agreement
from benchmarks.peers.figures import Ratio
from benchmarks.peers.load import CONCURRENT, PREFILLS
from pdrt.bench.tables import Table

ROWS = {
    **{f"output@{n}": f"output tok/s, {n} at once" for n in CONCURRENT},
    **{f"step@{n}": f"gap between tokens, ms, {n} at once" for n in CONCURRENT},
    **{f"prefill@{n}": f"prefill tok/s, {n} tokens" for n in PREFILLS},
}


def agreement_lines(found: Mapping[str, Agreement]) -> list[str]:
    return [
        f"{name}: first tokens as {each.reference} {each.first_tokens:.0%}, "
        f"all before a difference {each.tokens:.0%}"
        + ("" if each.trusted else "  <- NOT THE SAME MODEL: its figures are not compared")
        for name, each in found.items()
        if name != each.reference
    ]


def figure_lines(figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Medians: a row for each measure, a column for each contestant."""
    rows = []
    for measure, text in ROWS.items():
        cells = (measures.get(measure) for measures in figures.values())
        rows.append([text, *(f"{cell['median']:.1f}" if cell else "-" for cell in cells)])
    return Table(["median", *figures], rows).as_text().splitlines()


def ratio_lines(found: Sequence[Ratio]) -> list[str]:
    """A row for each target: the rounds' median and range, and the verdict."""
    heads = ("pdrt over", "", "ratio", "rounds", "pass", "goal", "")
    rows = []
    for each in found:
        target, spread = each.target, f"{each.lowest:.2f}-{each.highest:.2f}"
        limits = [f"{target.passes:g}", f"{target.goal:g}", each.verdict]
        rows.append([each.peer, ROWS[target.measure], f"{each.value:.2f}", spread, *limits])
    return Table(heads, rows).as_text().splitlines()
