"""`python -m pdrt.bench profile`: where the time of a step goes, by its parts.

A worker with the real model takes turns in this process; every call of the schedulers, the ledger,
the executor and each kernel is timed from outside. A part's time is its own, without the parts
inside it, so that the shares of a step add up to one:

    prefill, decode    the schedulers: settling, planning, growing pages
    ledger             marking a step, writing its results
    runner             tensors from the plan, requests' parameters
    executor           the decoder's Python between kernels; the sampler
    kernel             each kernel by name; those of a decode step's layers, head and draw as
                       "replay"
    rest               what lies between those

Their timing is taken off as far as it is known (pdrt.bench.spans).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from tqdm import tqdm

from pdrt import _C, machine
from pdrt.bench.engine_flags import add_engine_flags, engine_settings
from pdrt.bench.flags import bench_parser, positive, told
from pdrt.bench.in_process import INSTANCE, InProcessWorker, Sizes, make_ledger
from pdrt.bench.reader import own_weights
from pdrt.bench.report import command_line, emit, provenance
from pdrt.bench.spans import Spans
from pdrt.bench.tables import Table
from pdrt.devices import CPU
from pdrt.errors import ConfigError
from pdrt.kernels import cpu
from pdrt.kv.pool import kv_pool
from pdrt.kv.shape import KVShape
from pdrt.model.decoder import Decoder
from pdrt.runner.executor import CpuExecutor
from pdrt.runner.runner import Runner
from pdrt.startup import Plan, make_plan

WARM_UP = 3  # decode steps


class Profiled:
    """The model of a plan, ready for workers whose parts are timed.

    Args:
        records: decode steps are replayed from tapes, as in a server.
    """

    def __init__(self, plan: Plan, records: bool) -> None:
        if plan.server.device != CPU:
            raise ConfigError("profile times steps of the CPU; give -s device=cpu")
        self.plan = plan
        self._records = records
        self.spans = Spans()
        self._weights = own_weights(plan.spec, plan.server)

    def worker(self, sizes: Sizes) -> InProcessWorker:
        """A worker with a ledger and KV pool of its own."""
        spec, server = self.plan.spec, self.plan.server
        ledger = make_ledger(sizes)
        holder = ledger.holder(INSTANCE)
        shape = KVShape(
            spec.num_layers, spec.num_kv_heads, sizes.page_size, spec.head_dim, server.dtype
        )
        kv = _C.Memory.create("kv", shape.pool_bytes(sizes.num_pages))
        kernels = self.spans.proxy("kernel", cpu)
        decoder = Decoder(spec, self._weights, kernels, sizes.max_model_len)
        pool = kv_pool(kv, shape, sizes.num_pages)
        executor = CpuExecutor(decoder, pool, sizes.server_shape, holder.beat)
        if self._records:
            executor.warm_up("decode")
            assert executor.tapes is not None
            tapes = [self.spans.proxy("kernel", tape) for tape in executor.tapes.tapes]
            executor.tapes.tapes = tapes
            executor.tapes.head.tape = self.spans.proxy("kernel", executor.tapes.head.tape)
        runner = Runner(self.spans.proxy("executor", executor), spec, ledger)
        watched = self.spans.proxy("runner", runner)
        return InProcessWorker(ledger, holder, watched, sizes, self.spans.proxy)


def prompts(plan: Plan, count: int, length: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    found: list[list[int]] = rng.integers(plan.spec.vocab_size, size=(count, length)).tolist()
    return found


def prefill(profiled: Profiled, tokens: int, repeats: int) -> dict[str, object]:
    """Steps of one chunk of so many tokens, each of a request of its own."""
    sizes = Sizes(repeats + 1, tokens + 2, budget=tokens)
    worker = profiled.worker(sizes)
    seconds = 0.0
    for number, prompt in enumerate(prompts(profiled.plan, repeats + 1, tokens)):
        if number == 1:  # the first was warm-up
            profiled.spans.clear()
            seconds = 0.0
        worker.submit(prompt, 1)
        start = time.perf_counter()
        worker.worker.turn()
        seconds += time.perf_counter() - start
    return as_row(profiled.spans, f"prefill of {tokens} tokens", seconds, repeats)


def decode(profiled: Profiled, batch: int, context: int, steps: int) -> dict[str, object]:
    """Steps in which `batch` requests with about `context` tokens decode."""
    room = WARM_UP + steps + 4
    sizes = Sizes(batch, context + room, budget=max(batch, batch * context))
    worker = profiled.worker(sizes)
    for prompt in prompts(profiled.plan, batch, context):
        worker.submit(prompt, room)
    for _ in range(WARM_UP):
        worker.worker.turn()
    profiled.spans.clear()
    start = time.perf_counter()
    for _ in range(steps):
        worker.worker.turn()
    seconds = time.perf_counter() - start
    return as_row(profiled.spans, f"decode of {batch}", seconds, steps)


def as_row(spans: Spans, step: str, seconds: float, steps: int) -> dict[str, object]:
    """Microseconds a step by part, most first, and the calls of each.

    Args:
        seconds: of all steps, with what timing their parts took.
    """
    seconds -= spans.total_overhead
    parts = {
        name: {
            "us": value * 1e6 / steps,
            "share": value / seconds,
            "calls": spans.calls[name] / steps,
        }
        for name, value in sorted(spans.seconds.items(), key=lambda each: -each[1])
    }
    rest = seconds - sum(spans.seconds.values())
    parts["rest"] = {"us": rest * 1e6 / steps, "share": rest / seconds, "calls": 0.0}
    kernels = sum(value for name, value in spans.seconds.items() if name.startswith("kernel:"))
    return {
        "step": step,
        "us": seconds * 1e6 / steps,
        "outside_kernels": 1 - kernels / seconds,
        "parts": parts,
    }


def as_table(row: dict[str, object]) -> str:
    parts = row["parts"]
    assert isinstance(parts, dict)
    lines = [
        (name, f"{each['us']:.1f}", f"{each['share']:.1%}", f"{each['calls']:g}")
        for name, each in parts.items()
    ]
    head = f"{row['step']}: {row['us']:.0f} us, {row['outside_kernels']:.1%} outside kernels"
    return head + "\n" + Table(("part", "us", "share", "calls"), lines).as_text()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("profile", __doc__)
    add_engine_flags(parser)
    parser.add_argument("--prefill-tokens", type=positive, nargs="*", default=[130, 512])
    parser.add_argument("--batch-sizes", type=positive, nargs="*", default=[1, 8, 64])
    parser.add_argument(
        "--context", type=positive, default=130, help="tokens of a request that decodes"
    )
    parser.add_argument(
        "--each-kernel",
        action="store_true",
        help="call the kernels of decode steps one by one, and not from tapes as a server does",
    )
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


@contextmanager
def bound_threads(count: int) -> Iterator[None]:
    """As in a worker: kernels compute on so many threads, torch on one. Each thread is bound to a
    core, where there are as many."""
    torch.set_num_threads(1)
    cores = machine.cores()
    if count > len(cores):
        _C.set_num_threads(count)
    else:
        _C.set_cores(cores[:count])
    try:
        yield
    finally:
        _C.set_num_threads(1)
        os.sched_setaffinity(0, cores)


def run(args: argparse.Namespace) -> list[dict[str, object]]:
    """Raises PdrtError: the model cannot be loaded here."""
    settings = engine_settings(args, device="cpu")
    plan = make_plan(settings)
    threads = settings.threads or sum(each.threads for each in plan.server.workers)
    with bound_threads(threads):
        return _rows(Profiled(plan, not args.each_kernel), args)


def _rows(profiled: Profiled, args: argparse.Namespace) -> list[dict[str, object]]:
    rows = []
    total = len(args.prefill_tokens) + len(args.batch_sizes)
    with tqdm(total=total, desc="steps", delay=5, mininterval=0.5) as bar:
        for tokens in args.prefill_tokens:
            rows.append(prefill(profiled, tokens, max(2, args.steps // 5)))
            bar.update()
        for batch in args.batch_sizes:
            rows.append(decode(profiled, batch, args.context, args.steps))
            bar.update()
    return rows


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    rows = run(args)
    print("\n\n".join(as_table(row) for row in rows))
    command = command_line("python -m pdrt.bench profile", argv)
    emit({"bench": "profile", **provenance(command), "rows": rows}, args.output)
    return 0
