"""`python -m pdrt.bench latency`: one batch alone on the engine, and how long its steps take.

Prefill: arrival to first token, of prompts that arrive together. A decode step: the time between
two tokens while all of the batch decode. Beside it stands how fast this machine reads memory, as
measured before and after each batch: a step reads every weight once, so that is its limit for
small batches. Where others use the machine too, that speed may double within a minute; where the
two readings are more than a fifth apart, no share of the limit is told.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from tqdm import tqdm

from pdrt.bench.engine_flags import add_engine_flags, engine_settings
from pdrt.bench.flags import bench_parser, positive, told
from pdrt.bench.load.prompts import Vocabulary
from pdrt.bench.report import command_line, emit, percentiles, provenance
from pdrt.engine import Engine
from pdrt.machine import num_cores
from pdrt.sampling_params import SamplingParams

READ_BYTES = 1 << 28  # more than any cache holds
READS = 5
APART = 1.2  # the larger of two readings over the smaller, beyond which neither is the limit


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("latency", __doc__)
    add_engine_flags(parser)
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=[1, 8, 16])
    parser.add_argument("--input-len", type=int, default=130)
    parser.add_argument("--output-len", type=positive, default=64)
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


def read_gb_s() -> float:
    """The best of some reads of a large block, with one thread and with one for each core."""
    block = np.ones(READ_BYTES // 8, np.int64)
    best = 0.0
    for threads in {1, num_cores()}:
        parts = np.array_split(block, threads)
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(READS):
                start = time.perf_counter()
                list(pool.map(np.sum, parts))
                best = max(best, block.nbytes / (time.perf_counter() - start) / 1e9)
    return best


async def token_times(
    engine: Engine, prompts: Sequence[list[int]], tokens: int
) -> list[list[float]]:
    """When the tokens of each prompt came, in seconds after all were sent."""
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    start = time.perf_counter()

    async def read(prompt: list[int]) -> list[float]:
        times: list[float] = []
        async for output in engine.async_generate(prompt, params):
            new = len(output.outputs[0].token_ids) - len(times)
            times += [time.perf_counter() - start] * new
        return times

    return await asyncio.gather(*(read(prompt) for prompt in prompts))


def steps_within(times: Sequence[Sequence[float]]) -> list[float]:
    """Seconds between tokens of the first request, while all of the batch decode."""
    begin, end = max(each[0] for each in times), min(each[-1] for each in times)
    return [b - a for a, b in pairwise(times[0]) if begin <= a and b <= end]


def one_batch(engine: Engine, args: argparse.Namespace, batch: int) -> dict[str, object]:
    """Figures of a batch size, of all repeats together."""
    vocabulary = Vocabulary(engine.plan.folder)
    firsts: list[float] = []
    steps: list[float] = []
    ends: list[float] = []
    for repeat in range(args.repeats + 1):
        rng = np.random.default_rng((batch, repeat))
        prompts = [vocabulary.random_ids(args.input_len, rng) for _ in range(batch)]
        times = asyncio.run(token_times(engine, prompts, args.output_len))
        if repeat == 0:
            continue  # warm-up
        firsts.append(max(each[0] for each in times))
        ends.append(max(each[-1] for each in times))
        steps += steps_within(times)
    return {
        "batch": batch,
        "avg_latency": float(np.mean(ends)),
        "prefill_tok_s": batch * args.input_len / float(np.median(firsts)),
        "prefill_ms": percentiles(firsts),
        "step_ms": percentiles(steps) if steps else None,
        "output_tok_s": batch * args.output_len / float(np.median(ends)),
    }


def with_limit(
    row: dict[str, object], weight_bytes: int, reads: Sequence[float]
) -> dict[str, object]:
    """The row with the share of the weight-read limit that its median step reaches.

    There is none where more than half of the tokens came together with others, as they do when a
    model is so small that this process cannot keep up: that median is a time between tokens read.
    And there is none where the readings before and after it, in GB/s, are too far APART.
    """
    row = row | {"read_gb_s": list(reads)}
    step = row["step_ms"]
    if not isinstance(step, dict) or not step["p50"] or max(reads) > APART * min(reads):
        return row
    least_ms = weight_bytes / float(np.median(reads)) / 1e6
    return row | {"weight_read_ms": least_ms, "share_of_weight_read": least_ms / step["p50"]}


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Raises PdrtError: the engine cannot start or refuses the lengths."""
    with Engine(engine_settings(args)) as engine:
        facts = engine.startup_summary()
        weight_bytes = int(str(facts["weight_bytes"]))
        rows, reads = [], [read_gb_s()]
        for batch in tqdm(args.batch_sizes, desc="batches", delay=5, mininterval=0.5):
            row = one_batch(engine, args, batch)
            reads.append(read_gb_s())
            rows.append(with_limit(row, weight_bytes, reads[-2:]))
    return {"read_gb_s": float(np.median(reads)), "rows": rows, "engine": facts}


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    command = command_line("python -m pdrt.bench latency", argv)
    result = {"bench": "latency", **provenance(command), **measure(args)}
    print(f"reads {result['read_gb_s']:.1f} GB/s")
    for row in result["rows"]:  # type: ignore[attr-defined]
        step = row["step_ms"] or {"p50": float("nan"), "p99": float("nan")}
        share, (before, after) = row.get("share_of_weight_read"), row["read_gb_s"]
        print(
            f"batch {row['batch']:>3}: prefill {row['prefill_tok_s']:7.0f} tok/s, step "
            f"p50 {step['p50']:.2f} p99 {step['p99']:.2f} ms, {row['output_tok_s']:.1f} output "
            f"tok/s, {f'{share:.0%}' if share else 'no share'} of the weight-read limit "
            f"({before:.1f} and {after:.1f} GB/s)"
        )
    emit(result, args.output)
    return 0
