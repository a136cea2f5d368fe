"""What prompts cost running streams, in every setup: p99 gap against prompt tokens a second.

    streams    requests with 1,024 tokens of context that decode all the time
    prompts    of nearly the whole context, arriving at seeded Poisson times whatever the server
               does (open loop), at shares of the unified server's prefill capacity, which is
               measured first: prompts alone, as many as wait at once
    setups     unified with steps of 2,048 down to 128 tokens; separated with and without MPS

It also gives the decode step without prompts, against the time in which the device copies as many
bytes as the weights and KV that the step reads, and the hand-off to an idle decode worker. Greedy
tokens of each setup are compared with the first one's; bfloat16 steps of other sizes may differ, so
the share that agrees is told.

A signal ends the measuring, not the telling: setups that are done are in the result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pdrt.bench import burst
from pdrt.bench.decode_step import Json, decode_step, handoff
from pdrt.bench.flags import bench_parser
from pdrt.bench.report import command_line, emit, percentiles, provenance
from pdrt.bench.setups import SETUPS, UNIFIED, WITH_MPS, Setup, engine_settings
from pdrt.bench.stopping import stoppable
from pdrt.engine import Engine
from pdrt.errors import PdrtError
from pdrt.sampling_params import SamplingParams

OUTPUT_ROOM = burst.BURST_OUTPUT_TOKENS  # tokens of the context that a prompt leaves free
YARDSTICKS = (sys.executable, "-m", "pdrt.bench.gpu_timing")


@dataclass(slots=True)
class Findings:
    """What all setups gave so far."""

    rows: list[Json] = field(default_factory=list)
    points: list[Json] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    capacity: float = 0.0  # prompt tokens a second of the unified server
    greedy: list[list[int]] = field(default_factory=list)  # of the first setup
    model: Json = field(default_factory=dict)

    def has(self, op: str) -> bool:
        return any(row["op"] == op for row in self.rows)


def make_load(
    engine: Engine, args: argparse.Namespace, share: float, capacity: float
) -> burst.Load:
    """Random prompts for about args.window seconds at a share of the capacity."""
    length = engine.limits.max_model_len - OUTPUT_ROOM
    rate = share * capacity / length
    # New prompts for each load: those of the one before are still in the prefix cache.
    rng = np.random.default_rng((args.seed, round(rate * 1e6)))
    waits = rng.exponential(1.0 / rate, max(4, round(rate * args.window)))

    def prompt(tokens: int) -> list[int]:
        return [int(each) for each in rng.integers(3, engine.limits.vocab_size, tokens)]

    return burst.Load(
        arrivals=[float(at) for at in np.cumsum(waits) - waits[0]],
        prompts=[prompt(length) for _ in waits],
        warm_up=prompt(length),
        streams=[prompt(engine.limits.max_model_len // 2) for _ in range(args.streams)],
    )


def prefill_capacity(engine: Engine, args: argparse.Namespace) -> float:
    """Prompt tokens a second when prompts always wait and no stream decodes."""
    load = make_load(engine, args, 1.0, capacity=8.0 * engine.limits.max_model_len)
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
    engine.generate([load.warm_up], params)
    prompts = load.prompts[: args.capacity_prompts]
    start = time.monotonic()
    engine.generate(prompts, params)
    return sum(map(len, prompts)) / (time.monotonic() - start)


def under_load(engine: Engine, args: argparse.Namespace, setup: Setup, found: Findings) -> None:
    """One point of the frontier for each share of the capacity."""
    for share in args.shares:
        load = make_load(engine, args, share, found.capacity)
        observed = burst.Observed([], engine.startup_summary())
        asyncio.run(burst.measure(engine, load, observed))
        point = {
            "setup": setup.name,
            "share_of_capacity": share,
            "prompt_tok_s": round(sum(map(len, load.prompts)) / observed.seconds),
            "prompts": len(load.prompts),
            "gap_ms": percentiles(observed.gaps),
            "ttft_ms": percentiles(observed.first_tokens),
        }
        if setup.mode == "separated":
            point["handoff_ms"] = percentiles(observed.handoffs)
        found.points.append(point)
        print(json.dumps(point), flush=True)


def greedy_share(engine: Engine, found: Findings) -> float:
    """The share of greedy tokens that agree with the first setup's."""
    rng = np.random.default_rng(7)
    length = min(256, engine.limits.max_model_len // 2)
    prompts = rng.integers(3, engine.limits.vocab_size, (4, length)).tolist()
    params = SamplingParams(temperature=0.0, max_tokens=burst.CHECKED_TOKENS, ignore_eos=True)
    tokens = [list(each.outputs[0].token_ids) for each in engine.generate(prompts, params)]
    found.greedy = found.greedy or tokens
    pairs = [
        one == other
        for mine, first in zip(tokens, found.greedy, strict=True)
        for one, other in zip(mine, first, strict=True)
    ]
    return sum(pairs) / len(pairs)


def run_setup(setup: Setup, args: argparse.Namespace, limits: Json, found: Findings) -> None:
    with Engine(engine_settings(setup, args)) as engine:
        found.model = found.model or engine.startup_summary()
        share = greedy_share(engine, found)
        print(f"{setup.name}: {share:.0%} of greedy tokens agree", flush=True)
        if setup == UNIFIED:
            found.capacity = prefill_capacity(engine, args)
            print(f"prefill capacity {found.capacity:.0f} tok/s", flush=True)
        if setup.mode == "separated" and not found.has("decode_step"):
            batches = [batch for batch in (1, 64) if batch <= args.max_num_seqs]
            found.rows += [decode_step(engine, each, limits["copy_gb_s"]) for each in batches]
            found.rows.append(handoff(engine))
        under_load(engine, args, setup, found)
        for point in found.points:
            if point["setup"] == setup.name:
                point["same_greedy_tokens"] = round(share, 4)


def ratio_row(points: Sequence[Json], share: float) -> Iterator[Json]:
    """p99 gap, separated with MPS to unified with the largest steps, at the same load."""
    p99 = {
        point["setup"]: point["gap_ms"]["p99"]
        for point in points
        if point["share_of_capacity"] == share
    }
    if UNIFIED.name in p99 and WITH_MPS.name in p99:
        ratio = p99[WITH_MPS.name] / p99[UNIFIED.name]
        yield {"op": "gap", "measure": "gap_separated_to_unified", "ratio": round(ratio, 4)}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("frontier", __doc__)
    parser.add_argument("--model", default="microsoft/phi-2")
    parser.add_argument("--load-format", default="dummy", help="auto for a model's own weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--window", type=float, default=5.0, help="seconds of arrivals a point")
    parser.add_argument("--capacity-prompts", type=int, default=16)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25, 0.8])
    names = "; ".join(setup.name for setup in SETUPS)
    parser.add_argument("--setups", nargs="+", metavar="NAME", help=f"only some of: {names}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two setups at half the capacity")
    parser.add_argument("--output", help="file for the JSON")
    args = parser.parse_args(argv)
    if args.quick:
        args.shares, args.window = [0.5], min(args.window, 3.0)
    return args


def measure_limits() -> Json:
    """Yardsticks, in a process of its own: this one must hold no context beside the workers'."""
    done = subprocess.run(YARDSTICKS, stdout=subprocess.PIPE, text=True, check=True)
    limits: Json = json.loads(done.stdout.splitlines()[-1])
    return limits


def chosen(args: argparse.Namespace, found: Findings) -> Iterator[Setup]:
    """All setups, or those that were named; quickly, one of each mode: the first that runs."""
    for setup in SETUPS:
        done = {point["setup"] for point in found.points}
        if args.quick and len(done) == 2:
            return
        if not args.setups or setup.name in args.setups:
            yield setup


def run_setups(args: argparse.Namespace, limits: Json, found: Findings) -> None:
    """Without the unified server's capacity there is no load to give, so it must come first."""
    for setup in chosen(args, found):
        try:
            run_setup(setup, args, limits, found)
        except Exception as error:  # one setup's failure costs its own figures and no other's
            words = str(error) if isinstance(error, PdrtError) else repr(error)
            found.skipped[setup.name] = words
            print(f"{setup.name}: {words}", file=sys.stderr, flush=True)
        if not found.capacity:
            return


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    limits = measure_limits()
    found = Findings()
    with stoppable() as stop:
        run_setups(args, limits["yardsticks"], found)
    found.rows.extend(ratio_row(found.points, args.shares[0]))
    shown = ("model", "load_format", "device", "streams", "window", "shares", "seed")
    result: Json = {
        "bench": "frontier",
        **provenance(command_line("python -m pdrt.bench frontier", argv)),
        **limits,
        "load": {key: vars(args)[key] for key in shown},
        "model": found.model,
        "prefill_capacity_tok_s": round(found.capacity),
        "skipped": found.skipped,
        "stopped_early": stop.came,
        "rows": found.rows,
        "frontier": found.points,
    }
    emit(result, args.output)
    return 1 if stop.came or not found.points else 0
