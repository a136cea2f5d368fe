"""All parts of a run on one page: what ran, what did not and why, targets, every row.

Written after each part, so that a run that is killed leaves what it had. summary.json holds the
same for programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pdrt.bench.suite.parts import Outcome
from pdrt.bench.suite.roofline import plots, timed_rows
from pdrt.bench.suite.targets import Target, Verdict, verdicts

_HEADS = ("op", "case", "us p50", "p20..p80", "GB/s", "of copy", "TFLOP/s", "of matmul", "peers")
_FIGURES = (
    "us gb_s share_of_copy tflops share_of_matmul flops_a_byte bytes peers measure op".split()
)


@dataclass(frozen=True, slots=True)
class Run:
    """What the summary says about the run itself. `ended` is "running", "completed" or why not."""

    mode: str
    commit: str | None
    ended: str


def write_summary(
    folder: Path, run: Run, outcomes: Sequence[Outcome], targets: Sequence[Target]
) -> None:
    """Writes summary.md, summary.json and the plots."""
    results = [outcome.result for outcome in outcomes if outcome.result]
    judged = verdicts(targets, results)
    drawn = _drawn(results)
    for name, svg in drawn.items():
        (folder / name).write_text(svg)
    page = as_markdown(run, outcomes, judged, sorted(drawn))
    (folder / "summary.md").write_text(page)
    (folder / "summary.json").write_text(
        json.dumps(as_json(run, outcomes, judged), indent=1) + "\n"
    )


def _drawn(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    try:
        return plots(results)
    except (KeyError, TypeError, ValueError) as error:  # a result that is not of our benches
        print(f"no plots: {type(error).__name__}: {error}", flush=True)
        return {}


def as_json(run: Run, outcomes: Sequence[Outcome], judged: Sequence[Verdict]) -> dict[str, Any]:
    return {
        **asdict(run),
        "parts": [asdict(outcome) for outcome in outcomes],
        "targets": [asdict(verdict) for verdict in judged],
    }


def as_markdown(
    run: Run, outcomes: Sequence[Outcome], judged: Sequence[Verdict], pictures: Sequence[str]
) -> str:
    lines = [
        f"# GPU run ({run.mode}, {run.ended})",
        "",
        *_origin(run, outcomes),
        "",
        "## Parts",
        "",
    ]
    rows = [(each.name, each.status, f"{each.seconds:.0f}", each.why) for each in outcomes]
    lines += table(("part", "status", "seconds", "why"), rows)
    if judged:
        lines += ["", "## Targets", "", *_targets(judged)]
    for outcome in outcomes:
        if timed_rows([outcome.result]):
            lines += ["", f"## {outcome.name}", "", *_rows(outcome.result)]
    lines += ["", *(f"![{name}]({name})" for name in pictures)]
    return "\n".join(lines).rstrip() + "\n"


def _origin(run: Run, outcomes: Sequence[Outcome]) -> list[str]:
    """Commit, GPU and versions, as the first part that knows them says."""
    lines = [f"Commit {run.commit or 'unknown'}."]
    for key in ("gpu", "versions"):
        found = next((each.result[key] for each in outcomes if each.result.get(key)), None)
        if isinstance(found, dict):
            facts = ", ".join(f"{name} {value}" for name, value in found.items())
            lines.append(f"{key.capitalize()}: {facts}.")
        elif key == "gpu":
            lines.append("No part saw a GPU: no figure here is a kernel's.")
    return lines


def _targets(judged: Sequence[Verdict]) -> list[str]:
    rows = [
        (
            each.what,
            "" if each.value is None else f"{each.value:.4g}",
            each.passing,
            each.goal,
            each.verdict,
        )
        for each in judged
    ]
    return table(("measure", "value", "pass", "goal", "verdict"), rows)


def _rows(result: Mapping[str, Any]) -> list[str]:
    limits = result.get("yardsticks", {})
    lines = [", ".join(f"{name} {value}" for name, value in limits.items()), ""]
    return lines + table(_HEADS, [_row(row) for row in timed_rows([result])])


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    case = " ".join(f"{key}={value}" for key, value in row.items() if key not in _FIGURES)
    times = row["us"]
    peers = "; ".join(f"{name} {_peer(each)}" for name, each in row.get("peers", {}).items())
    return (
        str(row.get("op", "")),
        case,
        f"{times['p50']}",
        f"{times['p20']}..{times['p80']}",
        f"{row.get('gb_s', '')}",
        _percent(row.get("share_of_copy")),
        f"{row.get('tflops', '')}",
        _percent(row.get("share_of_matmul")),
        peers,
    )


def _peer(figures: Mapping[str, Any]) -> str:
    if "refused" in figures:
        return f"refused ({figures['refused'][:60]})"
    return f"{figures['us']} us ({figures['times_ours']}x ours)"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        shown = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
        return "| " + " | ".join(shown) + " |"

    return [line(heads), line(["---"] * len(heads)), *(line(row) for row in rows)]
