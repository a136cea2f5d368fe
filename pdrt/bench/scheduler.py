"""`python -m pdrt.bench scheduler`: what a decode step costs outside the model.

A worker takes its turns over a real ledger, with a runner that computes nothing and answers every
row with a token: what is left is settling, planning, growing pages and writing results back. Beside
it stands making a step's tensors from the plan, which the runner does first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from pdrt.bench.decode_step import microseconds
from pdrt.bench.flags import bench_parser, positive
from pdrt.bench.in_process import INSTANCE, InProcessWorker, Sizes, make_ledger
from pdrt.bench.report import command_line, emit, provenance
from pdrt.bench.tables import Table
from pdrt.runner.batch import make_batch
from pdrt.sched.plan import Plan, Result, Sampled

PROMPT_TOKENS = 130
WARM_UP = 50  # turns
TOKEN = 7  # what every row samples


@dataclass(frozen=True, slots=True)
class NoStep:
    """A step that takes no time."""

    plan: Plan

    def read(self) -> list[Result]:
        return [Result(Sampled(TOKEN, 0.0) if row.samples else None) for row in self.plan.rows]


class NoModel:
    """A runner that computes nothing. Keeps the last plan."""

    depth = 1

    def __init__(self) -> None:
        self.plan = Plan()

    def launch(self, plan: Plan) -> NoStep:
        self.plan = plan
        return NoStep(plan)


def measure(batch: int, turns: int) -> dict[str, Any]:
    """Microseconds of a turn in which `batch` requests decode, and of its tensors."""
    sizes = Sizes(batch, PROMPT_TOKENS + WARM_UP + 2 * turns + 8, budget=batch * PROMPT_TOKENS)
    ledger = make_ledger(sizes)
    runner = NoModel()
    worker = InProcessWorker(ledger, ledger.holder(INSTANCE), runner, sizes)
    slots = [
        worker.submit([TOKEN] * (PROMPT_TOKENS - 1) + [number], 2 * turns + WARM_UP + 4)
        for number in range(batch)
    ]
    for _ in range(WARM_UP):
        worker.worker.turn()
    before = [worker.num_output_tokens(slot) for slot in slots]
    seconds = timed(worker.worker.turn, turns)
    given = [worker.num_output_tokens(slot) for slot in slots]
    assert all(now - was == turns for now, was in zip(given, before, strict=True)), (before, given)
    ones = [1] * batch
    tensors = timed(lambda: make_batch(runner.plan, ledger, ones, {}), turns)
    return {
        "op": "turn",
        "batch": batch,
        "turn_us": microseconds(seconds),
        "tensors_us": microseconds(tensors),
    }


def timed(call: Callable[[], object], times: int) -> list[float]:
    """Seconds of each of so many calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("scheduler", __doc__)
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=[1, 8, 64])
    parser.add_argument("--turns", type=positive, default=500)
    parser.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    def shown(us: dict[str, float]) -> str:
        return f"{us['p50']:.0f} [{us['p20']:.0f}, {us['p80']:.0f}]"

    lines = [
        (str(each["batch"]), shown(each["turn_us"]), shown(each["tensors_us"])) for each in rows
    ]
    return Table(("requests", "turn us, p50 [p20, p80]", "tensors us"), lines).as_text()


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    bar = tqdm(args.batch_sizes, desc="batches", delay=5, mininterval=0.5)
    rows = [measure(batch, args.turns) for batch in bar]
    print(as_table(rows))
    command = command_line("python -m pdrt.bench scheduler", argv)
    emit({"bench": "scheduler", **provenance(command), "rows": rows}, args.output)
    return 0
