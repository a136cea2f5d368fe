"""What a burst of long prompts does to streams that are running: both modes, one run.

    streams   two requests that decode all the time; the gaps between their tokens are the figure
    burst     prompts of 500 random tokens, which arrive at seeded Poisson times whatever the
              server does (open loop); random, so that no prefix is cached

Unified mode runs each prompt's chunk in the step in which the streams decode, so they wait for it;
separated mode runs it in another process. The greedy tokens of both modes are compared before any
figure is given. Gaps count from the first arrival to the last prompt's end; what comes before is
warm-up. Runs over async_generate, so HTTP is not in the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pdrt.bench.flags import bench_parser, told
from pdrt.bench.report import command_line, emit, percentiles, provenance
from pdrt.engine import Engine
from pdrt.errors import PdrtError
from pdrt.sampling_params import SamplingParams

T = TypeVar("T")
Run = list[tuple[float, int]]  # of one request: when an output came, its tokens by then

MODES = ("separated", "unified")
NUM_STREAMS = 2
STREAM_PROMPT_TOKENS = 32
WARM_UP_TOKENS = 20  # of each stream, before the first arrival
BURST_OUTPUT_TOKENS = 8
CHECKED_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Load:
    """The same for both modes. `arrivals` are seconds after the start; prompts are token ids."""

    arrivals: list[float]
    prompts: list[list[int]]
    warm_up: list[int]
    streams: list[list[int]]


@dataclass(slots=True)
class Observed:
    """What one mode gave, in seconds: the streams' gaps, the burst's times to a first token.

    `facts` are the engine's own words about itself. `handoffs`: from a prompt's pages being sealed
    to decode's taking them; none in unified mode. `seconds`: first arrival to the last one's end.
    """

    tokens: list[list[int]]
    facts: dict[str, Any]
    gaps: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    handoffs: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def figures(self) -> dict[str, object]:
        return {
            "itl_ms": percentiles(self.gaps),
            "ttft_ms": percentiles(self.first_tokens),
            "dtype": self.facts["dtype"],
            "threads": {worker["name"]: worker["threads"] for worker in self.facts["workers"]},
        }


def make_load(args: argparse.Namespace, vocab_size: int) -> Load:
    """Seeded, so that two runs and both modes meet the same prompts at the same times."""
    rng = np.random.default_rng(args.seed)

    def prompt(length: int) -> list[int]:
        return [int(token) for token in rng.integers(vocab_size // 2, vocab_size, length)]

    waits = rng.exponential(1.0 / args.rate, args.prompts)
    return Load(
        arrivals=[float(t) for t in np.cumsum(waits) - waits[0]],
        prompts=[prompt(args.prompt_tokens) for _ in range(args.prompts)],
        warm_up=prompt(args.prompt_tokens),
        streams=[prompt(STREAM_PROMPT_TOKENS) for _ in range(NUM_STREAMS)],
    )


class Stream:
    """One running reader, which starts anew at the context's end."""

    def __init__(self, engine: Engine, prompt: list[int]) -> None:
        self._engine = engine
        self._prompt = prompt
        self.runs: list[Run] = []
        self.warm = asyncio.Event()

    async def read(self) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)
        while True:
            self.runs.append([])
            async for output in self._engine.async_generate(self._prompt, params):
                count = len(output.outputs[0].token_ids)
                self.runs[-1].append((time.monotonic(), count))
                if count >= WARM_UP_TOKENS:
                    self.warm.set()


def gaps_within(runs: Sequence[Run], start: float, end: float) -> list[float]:
    """Seconds between consecutive tokens that came in [start, end]; 0 between those together."""
    found: list[float] = []
    for run in runs:
        for (before, had), (now, has) in zip(run, run[1:], strict=False):
            if start <= before and now <= end:
                found.append(now - before)
                found.extend([0.0] * (has - had - 1))
    return found


class Answer(NamedTuple):
    """Seconds from a request's arrival to its first token, and of its hand-off, if it had one."""

    first_token: float
    handoff: float | None


async def answer(engine: Engine, prompt: list[int]) -> Answer:
    """Sends a request now and reads it to its end."""
    params = SamplingParams(temperature=0.0, max_tokens=BURST_OUTPUT_TOKENS, ignore_eos=True)
    arrival, first, handoff = time.monotonic(), None, None
    async for output in engine.async_generate(prompt, params):
        first = first or time.monotonic()
        handoff = output.metrics.handoff_time
    assert first is not None, "a finished request has a token"
    return Answer(first - arrival, handoff)


async def measure(engine: Engine, load: Load, observed: Observed) -> None:
    """Runs the streams, then the burst beside them, and notes what was seen."""
    streams = [Stream(engine, prompt) for prompt in load.streams]
    await answer(engine, load.warm_up)
    readers = [asyncio.create_task(stream.read()) for stream in streams]

    async def burst() -> tuple[float, float]:
        await asyncio.gather(*(stream.warm.wait() for stream in streams))
        start = time.monotonic()
        arrivals = zip(load.arrivals, load.prompts, strict=True)
        waits = (_arrive(engine, start + at, prompt) for at, prompt in arrivals)
        answers = await asyncio.gather(*waits)
        observed.first_tokens = [each.first_token for each in answers]
        observed.handoffs = [each.handoff for each in answers if each.handoff is not None]
        return start, time.monotonic()

    try:
        start, end = await _beside(readers, burst())
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    observed.seconds = end - start
    observed.gaps = [gap for stream in streams for gap in gaps_within(stream.runs, start, end)]


async def _arrive(engine: Engine, at: float, prompt: list[int]) -> Answer:
    await asyncio.sleep(at - time.monotonic())
    return await answer(engine, prompt)


async def _beside(readers: Sequence[asyncio.Task[None]], work: Coroutine[None, None, T]) -> T:
    """The work's result, unless a reader fails first: then its error."""
    task = asyncio.create_task(work)
    await asyncio.wait({task, *readers}, return_when=asyncio.FIRST_COMPLETED)
    for reader in readers:
        if reader.done():
            task.cancel()
            reader.result()
    return task.result()


def greedy_tokens(engine: Engine, load: Load) -> list[list[int]]:
    """What both modes must agree on: greedy tokens of the streams' and two burst prompts."""
    params = SamplingParams(temperature=0.0, max_tokens=CHECKED_TOKENS, ignore_eos=True)
    outputs = engine.generate([*load.streams, *load.prompts[:2]], params)
    return [list(output.outputs[0].token_ids) for output in outputs]


def run(args: argparse.Namespace) -> dict[str, Observed]:
    """Both modes, one after the other.

    Raises:
        PdrtError: the modes disagree about greedy tokens, or the engine failed.
    """
    seen: dict[str, Observed] = {}
    for mode in MODES:
        print(f"{mode}: starting", flush=True)
        with Engine(args.model, disaggregation_mode=mode) as engine:
            load = make_load(args, engine.limits.vocab_size)
            seen[mode] = Observed(greedy_tokens(engine, load), engine.startup_summary())
            if seen[mode].tokens != seen[MODES[0]].tokens:
                raise PdrtError("the two modes gave different greedy tokens; no figures are given")
            asyncio.run(measure(engine, load, seen[mode]))
        print(f"{mode}: {_row(seen[mode])}", flush=True)
    return seen


def _row(observed: Observed) -> str:
    gaps, first = percentiles(observed.gaps), percentiles(observed.first_tokens)
    return (
        f"gap p50 {gaps['p50']:.1f}  p90 {gaps['p90']:.1f}  p99 {gaps['p99']:.1f}  "
        f"max {gaps['max']:.1f} ms of {gaps['count']}; "
        f"burst TTFT p50 {first['p50']:.0f}  max {first['max']:.0f} ms"
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("burst", __doc__)
    parser.add_argument("--model", default="", help="as of pdrt.serve (default: SmolLM2-135M)")
    parser.add_argument("--prompts", type=int, default=24, help="prompts in the burst")
    parser.add_argument("--rate", type=float, default=0.4, help="arrivals a second")
    parser.add_argument("--prompt-tokens", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    seen = run(args)
    separated, unified = (percentiles(seen[mode].gaps)["p99"] for mode in MODES)
    result: dict[str, object] = {
        "bench": "burst",
        **provenance(command_line("python -m pdrt.bench burst", argv)),
        "load": {key: vars(args)[key] for key in ("prompts", "rate", "prompt_tokens", "seed")},
        "modes": {mode: observed.figures() for mode, observed in seen.items()},
        "same_greedy_tokens": True,
        "p99_itl_separated_to_unified": round(separated / unified, 4),
    }
    emit(result, args.output)
    return 0
