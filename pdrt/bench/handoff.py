"""`python -m pdrt.bench handoff`: from prefill's last chunk to decode, alone and beside streams.

    sealed to taken     from the step boundary at which prefill gives the pages up to the one at
                        which decode has them; the workers' own clocks, in the ledger
    first to second     from a reader's first token, which prefill samples, to the second, which is
                        decode's first: hand-off, one decode step, and the way to the reader;
                        without those of which one read brought both, which are counted

Decode takes requests at the boundaries of its steps, so beside running streams one waits for the
end of the step that is under way.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from pdrt.bench.engine_flags import add_engine_flags, engine_settings
from pdrt.bench.flags import bench_parser, positive, told
from pdrt.bench.load.prompts import Vocabulary
from pdrt.bench.report import command_line, emit, percentiles, provenance
from pdrt.bench.tables import Table
from pdrt.engine import Engine
from pdrt.errors import PdrtError
from pdrt.sampling_params import SamplingParams

TOKENS = 4  # of each measured request
WARM_UP = 2  # requests before the first that counts
READER_TOKENS = 32  # of a stream's prompt


PARTS = {"sealed to taken": "sealed_to_taken_ms", "first to second": "first_to_second_ms"}


@dataclass(slots=True)
class Seen:
    """Seconds, an entry for each request; `read_together` counts those without a second one."""

    sealed_to_taken: list[float] = field(default_factory=list)
    first_to_second: list[float] = field(default_factory=list)
    read_together: int = 0

    def add(self, sealed_to_taken: float, first_to_second: float) -> None:
        self.sealed_to_taken.append(sealed_to_taken)
        if first_to_second > 0:
            self.first_to_second.append(first_to_second)
        else:  # one read brought both tokens: this is no time that anything took
            self.read_together += 1

    def figures(self, streams: int) -> dict[str, Any]:
        return {
            "streams": streams,
            "sealed_to_taken_ms": percentiles(self.sealed_to_taken),
            "first_to_second_ms": (
                percentiles(self.first_to_second) if self.first_to_second else None
            ),
            "read_together": self.read_together,
        }


def greedy(tokens: int | None) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)


async def one(engine: Engine, prompt: list[int], seen: Seen) -> None:
    """Sends a request and notes its hand-off."""
    times: list[float] = []
    handoff = None
    async for output in engine.async_generate(prompt, greedy(TOKENS)):
        new = len(output.outputs[0].token_ids) - len(times)
        times += [time.perf_counter()] * new
        handoff = output.metrics.handoff_time
    if handoff is not None:
        seen.add(handoff, times[1] - times[0])


async def stream(engine: Engine, prompt: list[int], started: asyncio.Semaphore) -> None:
    """A reader that decodes all the time."""
    while True:
        first = True
        async for _ in engine.async_generate(prompt, greedy(None)):
            if first:
                first = False
                started.release()


async def measure(
    engine: Engine, prompts: Sequence[list[int]], readers: Sequence[list[int]]
) -> Seen:
    """One request after the other, beside readers' streams; the first two are warm-up.

    Raises:
        PdrtError: a request failed.
    """
    seen, started = Seen(), asyncio.Semaphore(0)
    what = f"beside {len(readers)} streams"
    try:
        async with asyncio.TaskGroup() as group:
            streams = [group.create_task(stream(engine, each, started)) for each in readers]
            for _ in readers:
                await started.acquire()
            for number, prompt in enumerate(tqdm(prompts, desc=what, delay=5, mininterval=0.5)):
                await one(engine, prompt, seen if number >= WARM_UP else Seen())
            for task in streams:
                task.cancel()
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return seen


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("handoff", __doc__)
    add_engine_flags(parser)
    parser.add_argument("--streams", type=int, nargs="+", default=[0, 4])
    parser.add_argument("--requests", type=positive, default=20)
    parser.add_argument("--input-len", type=int, default=130)
    parser.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    heads = ("streams", "part", "p50 ms", "p90", "p99", "max")
    lines = [
        (str(row["streams"]), part, *(f"{row[key][p]:.2f}" for p in ("p50", "p90", "p99", "max")))
        for row in rows
        for part, key in PARTS.items()
        if row[key]
    ]
    return Table(heads, lines).as_text()


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Raises PdrtError: the engine cannot start, or hands nothing over."""
    with Engine(engine_settings(args)) as engine:
        vocabulary = Vocabulary(engine.plan.folder)
        rows = []
        for streams in args.streams:
            rng = np.random.default_rng((streams, 0))
            lengths = [args.input_len] * (args.requests + WARM_UP)
            prompts = [vocabulary.random_ids(length, rng) for length in lengths]
            readers = [vocabulary.random_ids(READER_TOKENS, rng) for _ in range(streams)]
            seen = asyncio.run(measure(engine, prompts, readers))
            if not seen.sealed_to_taken:
                raise PdrtError("nothing was handed over; give more --requests")
            rows.append(seen.figures(streams))
    return rows


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    command = command_line("python -m pdrt.bench handoff", argv)
    rows = run(args)
    print(as_table(rows))
    emit({"bench": "handoff", **provenance(command), "rows": rows}, args.output)
    return 0
