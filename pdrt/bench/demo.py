"""`python -m pdrt.bench demo`: what readers see while prompts burst in; both modes, one picture.

    streams   requests that decode from the start to the end
    burst     long prompts that arrive, at the same seeded times, while the streams run

Both servers have today's default flags and differ in --disaggregation-mode alone. They run one
after the other and get the same requests; whether they gave the same greedy texts is told first.
Gaps are of the streams, from the burst's first arrival to its last prompt's first token.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from pdrt.bench import pages
from pdrt.bench.flags import add_server_flags, bench_parser, positive, told
from pdrt.bench.load.api import Target
from pdrt.bench.load.arrivals import Arrivals
from pdrt.bench.load.asking import served_model
from pdrt.bench.load.driver import Load
from pdrt.bench.load.prompts import Vocabulary, Writer
from pdrt.bench.load.records import Record
from pdrt.bench.load.servers import own_server, running
from pdrt.bench.load.sessions import Session, Turn
from pdrt.bench.report import command_line, emit, percentiles, provenance
from pdrt.bench.results import DETAILS
from pdrt.bench.serve import run_with_bar
from pdrt.bench.tables import Table
from pdrt.config import cache_dir
from pdrt.errors import PdrtError
from pdrt.model.source import resolve

MODES = ("unified", "separated")
COLOURS = {"unified": "#d1495b", "separated": "#1b6ca8"}
STREAM_PROMPT_TOKENS = 32
BURST_OUTPUT_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Demo:
    """The load: the first sessions are the streams, the others the burst."""

    sessions: Sequence[Session]
    num_streams: int
    warm_up: Sequence[Session]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one mode gave."""

    streams: Sequence[Record]
    burst: Sequence[Record]

    @property
    def window(self) -> tuple[float, float]:
        """From the burst's first arrival to its last first token, in seconds of the run."""
        return self.burst[0].scheduled, max(record.chunk_times[0] for record in self.burst)

    def gaps(self) -> list[float]:
        """Seconds between tokens of the streams that reach into the window."""
        start, end = self.window
        return [
            now - before
            for record in self.streams
            for before, now in pairwise(record.chunk_times)
            if now > start and before < end
        ]

    def texts(self) -> list[str]:
        return [record.text for record in (*self.streams, *self.burst)]

    def figures(self) -> dict[str, dict[str, float]]:
        return {
            "gap_ms": percentiles(self.gaps()),
            "burst_ttft_ms": percentiles([record.ttft for record in self.burst]),
        }


def make_demo(args: argparse.Namespace, vocabulary: Vocabulary) -> Demo:
    """Seeded, so that both modes meet the same prompts at the same times."""
    rng = np.random.default_rng(args.seed)
    writer = Writer(vocabulary, as_ids=True)

    def session(tokens: int, output: int, at: float) -> Session:
        return Session((Turn(writer.prompt(tokens, rng), output, tokens),), at)

    streams = [session(STREAM_PROMPT_TOKENS, args.stream_tokens, 0.0) for _ in range(args.streams)]
    times = Arrivals("poisson", args.rate).times(args.prompts, rng)
    burst = [
        session(args.prompt_tokens, BURST_OUTPUT_TOKENS, args.burst_after + at) for at in times
    ]
    warm_up = [session(args.prompt_tokens, BURST_OUTPUT_TOKENS, 0.0) for _ in range(2)]
    return Demo([*streams, *burst], args.streams, warm_up)


def run_mode(mode: str, args: argparse.Namespace, demo: Demo) -> Seen:
    """Starts the mode's server, warms it up, and runs the load.

    Raises:
        PdrtError: it does not start, or a request failed.
    """
    flags = f"--disaggregation-mode {mode} {args.flags}"
    with running(own_server(mode, args.model, flags)) as url:
        target = Target(url, model=served_model(url))
        run_with_bar(target, Load(demo.warm_up), f"{mode}, warm-up")
        records = run_with_bar(target, Load(demo.sessions), mode).records
    failed = [record.error for record in records if record.error]
    if failed:
        raise PdrtError(f"{mode}: {len(failed)} requests failed: {failed[0]}")
    seen = Seen(records[: demo.num_streams], records[demo.num_streams :])
    if not seen.gaps():
        raise PdrtError(f"{mode}: the streams ended before the burst; raise --stream-tokens")
    return seen


def picture(seen: Mapping[str, Seen]) -> bytes:
    """A mark for each token of each stream; a bar from each prompt's arrival to its first token."""
    drawn = pages.figure(12, 6)
    axes = drawn.subplots()
    labels: list[str] = []
    for mode, found in seen.items():
        _draw_mode(axes, mode, found, labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(
        "seconds; a mark is a token at its reader, a bar a prompt until its first token"
    )
    axes.set_title("Running streams while prompts arrive")
    return pages.png(drawn)


def _draw_mode(axes: Axes, mode: str, found: Seen, labels: list[str]) -> None:
    for number, record in enumerate(found.streams):
        axes.eventplot(
            record.chunk_times,
            lineoffsets=len(labels),
            linelengths=0.8,
            linewidths=0.7,
            colors=COLOURS[mode],
        )
        labels.append(f"{mode}, stream {number + 1}")
    waits = [(record.scheduled, record.ttft) for record in found.burst]
    axes.broken_barh(waits, (len(labels) - 0.3, 0.6), color=COLOURS[mode], alpha=0.35)
    labels.append(f"{mode}, prompts")


def table(seen: Mapping[str, Seen]) -> Table:
    figures = {mode: found.figures() for mode, found in seen.items()}
    rows = [
        (f"{what}, {p}, ms", *(f"{figures[mode][key][p]:.1f}" for mode in seen))
        for key, what in (("gap_ms", "gap between tokens"), ("burst_ttft_ms", "prompts' TTFT"))
        for p in ("p50", "p90", "p99", "max")
    ]
    return Table(("while prompts arrive", *seen), rows)


def agreement(seen: Mapping[str, Seen]) -> str:
    one, other = (found.texts() for found in seen.values())
    same = sum(a == b for a, b in zip(one, other, strict=True))
    return f"{same} of {len(one)} greedy outputs are the same in both modes."


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("demo", __doc__)
    add_server_flags(parser)
    parser.add_argument("--streams", type=positive, default=3)
    parser.add_argument("--stream-tokens", type=positive, default=900, help="output of each stream")
    parser.add_argument("--burst-after", type=float, default=3.0, help="seconds of streams alone")
    parser.add_argument("--prompts", type=positive, default=6, help="in the burst")
    parser.add_argument("--prompt-tokens", type=positive, default=500)
    parser.add_argument("--rate", type=float, default=1.0, help="prompts a second in the burst")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=Path("demo"), help="OUTPUT.json, .html, .png"
    )
    return parser.parse_args(argv)


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    demo = make_demo(args, Vocabulary(resolve(args.model, cache_dir())))
    seen = {mode: run_mode(mode, args, demo) for mode in MODES}
    print(f"{agreement(seen)}\n\n{table(seen).as_text()}\n")
    command = command_line("python -m pdrt.bench demo", argv)
    origin = f"{command}; {provenance(command)['machine']}"
    parts: list[pages.Part] = [agreement(seen), picture(seen), table(seen), origin]
    for path in pages.write_page(args.output, "Unified and separated, the same load", parts):
        print(path)
    emit(as_result(seen, command), pages.beside(args.output, ".json"), DETAILS)
    return 0


def as_result(seen: Mapping[str, Seen], command: str) -> dict[str, object]:
    """Figures of both modes, and every request with the times of its tokens."""
    return {
        "bench": "demo",
        **provenance(command),
        "outputs": agreement(seen),
        "modes": {mode: found.figures() for mode, found in seen.items()},
        "requests": {
            mode: [each.as_json() for each in (*found.streams, *found.burst)]
            for mode, found in seen.items()
        },
    }
