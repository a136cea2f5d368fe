"""`python -m pdrt.bench offline`: tokens a second when all prompts are there from the start.

Runs pdrt.Engine in this process, without HTTP. Keys of the JSON are those of `vllm bench
throughput`, and more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from pdrt.bench.engine_flags import add_engine_flags, engine_settings
from pdrt.bench.flags import bench_parser, positive, told
from pdrt.bench.load.datasets import Lengths
from pdrt.bench.load.prompts import Vocabulary
from pdrt.bench.report import command_line, emit, provenance
from pdrt.engine import Engine
from pdrt.errors import PdrtError
from pdrt.sampling_params import SamplingParams

WARM_UP = 2  # prompts before the first that counts
PROGRESS_AFTER = 5.0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("offline", __doc__)
    add_engine_flags(parser)
    parser.add_argument("--num-prompts", type=positive, default=32)
    parser.add_argument("--input-len", type=int, default=130)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--range-ratio", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


@dataclass(frozen=True, slots=True)
class Wish:
    """One prompt, and how many tokens are to follow."""

    prompt: list[int]
    output_len: int

    def params(self) -> SamplingParams:
        return SamplingParams(temperature=0.0, max_tokens=self.output_len, ignore_eos=True)


def wishes(engine: Engine, args: argparse.Namespace) -> list[Wish]:
    """Random prompts, the first of which are for the warm-up."""
    lengths = Lengths(args.input_len, args.output_len, args.range_ratio)
    vocabulary, rng = Vocabulary(engine.plan.folder), np.random.default_rng(args.seed)
    return [
        Wish(
            vocabulary.random_ids(lengths.draw(args.input_len, rng), rng),
            lengths.draw(args.output_len, rng),
        )
        for _ in range(args.num_prompts + WARM_UP)
    ]


def generate(engine: Engine, load: Sequence[Wish], what: str) -> tuple[float, int]:
    """Runs prompts to their end; seconds, and output tokens."""
    prompts, params = [each.prompt for each in load], [each.params() for each in load]
    tokens = 0
    start = time.perf_counter()
    with tqdm(total=len(load), desc=what, delay=PROGRESS_AFTER, mininterval=0.5) as bar:
        for output in engine.generate(prompts, params, stream=True):
            if output.finished:
                tokens += len(output.outputs[0].token_ids)
                bar.update()
    return time.perf_counter() - start, tokens


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Raises PdrtError: the engine cannot start, or gave other than the tokens asked for."""
    with Engine(engine_settings(args)) as engine:
        load = wishes(engine, args)
        generate(engine, load[:WARM_UP], "warm-up")
        seconds, tokens = generate(engine, load[WARM_UP:], "prompts")
        facts = engine.startup_summary()
    wanted = sum(each.output_len for each in load[WARM_UP:])
    if tokens != wanted:
        raise PdrtError(f"{tokens} tokens came where {wanted} were asked for; no figures are given")
    prompt_tokens = sum(len(each.prompt) for each in load[WARM_UP:])
    return {
        "elapsed_time": seconds,
        "num_requests": args.num_prompts,
        "total_num_tokens": prompt_tokens + tokens,
        "requests_per_second": args.num_prompts / seconds,
        "tokens_per_second": (prompt_tokens + tokens) / seconds,
        "output_tokens_per_second": tokens / seconds,
        "engine": facts,
    }


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    command = command_line("python -m pdrt.bench offline", argv)
    result = {"bench": "offline", **provenance(command), **measure(args)}
    print(
        f"{args.num_prompts} prompts in {result['elapsed_time']:.2f} s: "
        f"{result['output_tokens_per_second']:.1f} output tok/s, "
        f"{result['tokens_per_second']:.1f} tok/s in all"
    )
    emit(result, args.output)
    return 0
