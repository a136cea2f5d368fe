"""`python -m pdrt.bench compare A.json B.json`: what differs between two runs, and what is noise.

Each side is one result file of `serve` (or of `vllm bench serve --save-detailed`), or several runs
of the same, joined by commas: A1.json,A2.json. With several alternating runs a side, what is called
a difference is more than runs of one setup differ among themselves (see pdrt.bench.statistics).
With one run a side nobody knows how much that is: verdicts are of those requests alone.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pdrt.bench import measures, pages
from pdrt.bench.flags import bench_parser, told
from pdrt.bench.measures import MEASURES, Measure, Result
from pdrt.bench.statistics import Comparison, Estimate, compare
from pdrt.bench.tables import Table
from pdrt.errors import ConfigError

LISTS = ("ttfts", "itls", "output_lens", "errors", "start_times")
SAME_LOAD = (
    *("dataset", "num_prompts", "request_rate", "max_concurrency", "arrivals", "burstiness"),
    *("ignore_eos", "temperature", "total_input_tokens"),
)  # not the seed: runs of one setup have several, so that no prefix cache knows their prompts
PROGRESS_AFTER = 5.0
LARGE = 1e5  # above it three digits are enough


@dataclass(frozen=True, slots=True)
class Side:
    """Runs of one setup."""

    name: str
    runs: Sequence[Result]

    @classmethod
    def read(cls, names: str) -> Side:
        """Raises ConfigError: a file cannot be read or lacks the lists of single requests."""
        return cls(names, [_read(Path(name)) for name in names.split(",")])

    @property
    def title(self) -> str:
        return str(self.runs[0].get("label") or self.name)


@dataclass(frozen=True, slots=True)
class Row:
    measure: Measure
    found: Comparison

    @property
    def verdict(self) -> str:
        ratio = self.found.ratio.value
        if self.found.is_noise:
            return "noise"
        better = (ratio > 1) == self.measure.higher_is_better
        much = "infinitely" if math.isinf(ratio) else f"{abs(ratio - 1):.1%}"
        return f"B {much} {'higher' if ratio > 1 else 'lower'}: {'better' if better else 'worse'}"


def _read(path: Path) -> Result:
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    missing = [name for name in LISTS if name not in result]
    if missing:
        raise ConfigError(
            f"{path} has no {', '.join(missing)}; give a result file of `serve` with --output, or "
            "of vLLM with --save-detailed"
        )
    if not measures.completed(result):
        raise ConfigError(f"{path} has no completed request to compare")
    return result


def rows(
    first: Side, second: Side, confidence: float, chosen: Sequence[Measure] = MEASURES
) -> list[Row]:
    """One for each of these measures that both sides have."""
    found = []
    for number, measure in enumerate(
        tqdm(chosen, desc="resampling", delay=PROGRESS_AFTER, mininterval=0.5)
    ):
        samples = [[measure.values(run) for run in side.runs] for side in (first, second)]
        if all(any(len(values) for values in run) for side in samples for run in side):
            made = compare(samples[0], samples[1], measure.statistic, confidence, seed=number)
            found.append(Row(measure, made))
    return found


def notes(first: Side, second: Side, confidence: float) -> list[str]:
    """What a reader must know beside the figures."""
    said = [f"Intervals are of {confidence:.0%} confidence."]
    if know_runs(first, second):
        said.append(
            f"Where the sides are equal, about 1 row in {1 / (1 - confidence):.0f}, or fewer, is "
            "called a difference."
        )
    else:
        said.append(
            "A side has one run: how much runs of one setup differ is not known, so verdicts are "
            "of these requests alone, and the next run may say otherwise. Repeat, alternating, and "
            "give the files joined by commas."
        )
    one, other = first.runs[0], second.runs[0]
    differing = [name for name in SAME_LOAD if one.get(name) != other.get(name)]
    if differing:
        said.append(f"The loads differ in {', '.join(differing)}.")
    if one.get("machine") != other.get("machine"):
        said.append(f"The machines differ: {one.get('machine')}, {other.get('machine')}.")
    said += [
        f"{side.title}: {failed} requests failed."
        for side in (first, second)
        if (failed := sum(bool(error) for run in side.runs for error in run["errors"]))
    ]
    return [*said, *_outputs(one, other)]


def _outputs(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Whether both gave the same texts; greedy ones of the same prompts should."""
    if one.get("seed") != other.get("seed"):
        return ["Outputs were not compared: with another seed, prompts are others."]
    first, second = (run.get("generated_texts") or [] for run in (one, other))
    if not first or len(first) != len(second):
        return ["Outputs were not compared: the files do not have the same requests."]
    same = sum(a == b for a, b in zip(first, second, strict=True))
    return [f"{same} of {len(first)} outputs are the same."]


def know_runs(first: Side, second: Side) -> bool:
    """Whether both have several runs, so that what differs between runs is known."""
    return min(len(first.runs), len(second.runs)) > 1


def table(found: Sequence[Row], of_runs: bool) -> Table:
    def number(value: float, digits: int) -> str:
        return f"{value:.{digits}f}" if value < LARGE else f"{value:.3g}"

    def shown(each: Estimate, digits: int = 2) -> str:
        value, low, high = (number(x, digits) for x in (each.value, each.low, each.high))
        return f"{value} [{low}, {high}]"

    lines = [
        (
            row.measure.name,
            shown(row.found.first),
            shown(row.found.second),
            shown(row.found.ratio, 3),
            row.verdict,
        )
        for row in found
    ]
    verdict = "verdict" if of_runs else "verdict, of these requests alone"
    return Table(("ms", "A", "B", "B / A", verdict), lines)


def widest(found: Sequence[Row]) -> float:
    """Where ratios are cut off in the picture: beyond all points, as bounds may be infinite."""
    points = [row.found.ratio.value for row in found if math.isfinite(row.found.ratio.value)]
    return 2 * max([1.0, *points])


def picture(first: Side, second: Side, found: Sequence[Row]) -> bytes:
    """Left, every ratio with its interval; right, the distributions behind them."""
    drawn = pages.figure(11, 6)
    grid = drawn.add_gridspec(3, 2)
    ratios = drawn.add_subplot(grid[:, 0])
    edge = widest(found)
    for place, row in enumerate(reversed(found)):
        ratio = row.found.ratio
        colour = "#999999" if row.found.is_noise else "#d1495b"
        low, value, high = np.minimum([ratio.low, ratio.value, ratio.high], edge)
        ratios.plot([low, high], [place, place], color=colour)
        ratios.plot([value], [place], "o", color=colour)
        if ratio.high > edge:
            ratios.plot([edge], [place], ">", color=colour)
    ratios.axvline(1.0, color="black", linewidth=0.8)
    ratios.set_yticks(range(len(found)), [row.measure.name for row in reversed(found)])
    ratios.set_xlabel("B / A; grey: noise")
    for place, (name, values) in enumerate(
        (("TTFT", measures.ttfts), ("TPOT", measures.tpots), ("ITL", measures.gaps))
    ):
        axes = drawn.add_subplot(grid[place, 1])
        for side, colour, label in ((first, "#1b6ca8", "A"), (second, "#d1495b", "B")):
            ms = np.concatenate([np.empty(0), *(x for run in side.runs for x in values(run))])
            if len(ms):
                axes.ecdf(ms, color=colour, label=f"{label}: {side.title}")
        axes.set_xlabel(f"{name}, ms")
        axes.set_ylabel("share")
        if place == 0:
            axes.legend(fontsize=8)
    return pages.png(drawn)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("compare", __doc__)
    parser.add_argument("first", metavar="A.json[,A2.json...]")
    parser.add_argument("second", metavar="B.json[,B2.json...]")
    parser.add_argument("--confidence", type=float, default=0.99)
    parser.add_argument("--output", type=Path, help="writes OUTPUT.html and OUTPUT.png")
    return parser.parse_args(argv)


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    if not 0.5 <= args.confidence < 1:
        raise ConfigError(f"--confidence is {args.confidence}; give 0.5 up to, not with, 1")
    first, second = Side.read(args.first), Side.read(args.second)
    found = rows(first, second, args.confidence)
    said = [f"A: {first.title} ({first.name})", f"B: {second.title} ({second.name})"]
    said += notes(first, second, args.confidence)
    shown = table(found, know_runs(first, second))
    print("\n".join([*said, "", shown.as_text()]))
    if args.output:
        drawn = picture(first, second, found)
        parts: list[pages.Part] = [*said, shown, drawn]
        for path in pages.write_page(args.output, f"{first.title} and {second.title}", parts):
            print(path)
    return 0
