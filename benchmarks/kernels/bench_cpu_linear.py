"""Packed linears on a CPU, beside torch's: GFLOP/s, and GB/s of weights read.

The linears of sixteen layers of SmolLM2-135M (113 MB in bfloat16), one after the other, so that
weights come from memory as they do in a step. Few rows are bound by that: GB/s is given as a share
of what this machine read just before, from memory in pages of the same kind. Many rows are bound by
arithmetic.

Ours is compared with torch's linear over plain weights, and where torch has it with oneDNN's over
weights that it packed for this many rows. All three compute without bias and activation; ours also
with the gate and up projection's activation inside, which the others would need a further pass for.
That is with one thread; with --threads 2 only ours computes, as the threads of torch would go on
spinning on the same cores.

Results are checked before anything is timed. Runs alternate between the three; times are the least
of all runs, with one thread its CPU time. The last line is the whole result as JSON; --save FILE
keeps it, and --plot FILE draws it under the roofs of the same minute: what memory gave, and what
the dot products gave on a weight that never leaves the caches (Williams, Waterman and Patterson
2009, "Roofline").

    python -m benchmarks.kernels.bench_cpu_linear --threads 2 \\
        --save benchmarks/results/cpu/linear.json --plot docs/cpu-roofline.svg
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.bench_cpu_attention import cpu_name
from pdrt import _C
from pdrt.bench.latency import read_gb_s
from pdrt.bench.suite.chart import Chart, Series
from pdrt.kernels import reference
from pdrt.kernels.cpu_linear import PackedLinear, linear, pack_rows
from pdrt.machine import cores

NUM_LAYERS = 16
# outputs, inputs, gated: qkv, attention_out, gate_up, down
SHAPES = [(960, 576, False), (576, 576, False), (3072, 576, True), (576, 1536, False)]
ROWS = (1, 2, 4, 8, 16, 32, 64, 130, 512, 1500)
BUDGET = 1.0  # seconds for each number of rows and each way
READ_BYTES = 256 << 20

CACHED = (256, 512)  # a weight that stays in a second-level cache, 256 KB in bfloat16
CACHED_ROWS = 512

Pass = Callable[[], None]  # the linears of all layers, once
Clock = Callable[[], float]


def huge(num_bytes: int) -> Tensor:
    """[num_bytes] uint8 in pages as a server's weights have them."""
    memory = _C.Memory.create("pdrt-bench", num_bytes)
    memory.use_huge_pages()
    return torch.from_dlpack(memory)  # type: ignore[attr-defined,no-any-return]


def panels_of(weights: Sequence[tuple[Tensor, bool]]) -> list[PackedLinear]:
    """All in one memory, as in a server."""
    shapes = [
        _C.PackedShape(
            num_outputs=weight.shape[0],
            num_inputs=weight.shape[1],
            gated=gated,
            is_bfloat16=weight.dtype is torch.bfloat16,
            is_int8=False,
        )
        for weight, gated in weights
    ]
    parts = huge(sum(shape.num_bytes for shape in shapes)).split([s.num_bytes for s in shapes])
    panels = [PackedLinear(part, shape) for part, shape in zip(parts, shapes, strict=True)]
    for packed, (weight, _) in zip(panels, weights, strict=True):
        pack_rows(packed, 0, weight)
    return panels


def check(panels: Sequence[PackedLinear], weights: Sequence[tuple[Tensor, bool]]) -> None:
    for packed, (weight, gated) in zip(panels[: len(SHAPES)], weights, strict=False):
        x, activation = torch.randn(13, weight.shape[1]).to(weight.dtype), None
        if gated:
            activation = "silu_gated"
        result = linear(x, packed, activation=activation)
        exact = reference.linear(x.double(), weight.double(), activation=activation)
        tolerance = 1e-5 if weight.dtype is torch.float32 else 2e-2
        torch.testing.assert_close(result.double(), exact, atol=tolerance, rtol=tolerance)


def our_pass(panels: Sequence[PackedLinear], num_rows: int) -> Pass:
    x = inputs(num_rows, panels[0].dtype)
    outs = [torch.empty(num_rows, p.out_size, dtype=p.dtype) for p in panels[: len(SHAPES)]]

    def run() -> None:
        for i, packed in enumerate(panels):
            activation = "silu_gated" if packed.packed.gated else None
            linear(x[packed.shape[1]], packed, activation=activation, out=outs[i % len(SHAPES)])

    return run


def torch_pass(weights: Sequence[tuple[Tensor, bool]], num_rows: int) -> Pass:
    x = inputs(num_rows, weights[0][0].dtype)

    def run() -> None:
        for weight, _ in weights:
            F.linear(x[weight.shape[1]], weight)

    return run


def onednn_pass(weights: Sequence[tuple[Tensor, bool]], num_rows: int) -> Pass | None:
    """None where this torch was built without it."""
    if not torch.backends.mkldnn.is_available():
        return None
    x = inputs(num_rows, weights[0][0].dtype)
    ops = torch.ops.mkldnn
    packed = [ops._reorder_linear_weight(w, num_rows) for w, _ in weights]
    sizes = [w.shape[1] for w, _ in weights]

    def run() -> None:
        for weight, size in zip(packed, sizes, strict=True):
            ops._linear_pointwise(x[size], weight, None, "none", [], "")

    return run


def inputs(num_rows: int, dtype: torch.dtype) -> dict[int, Tensor]:
    """By number of inputs."""
    return {size: torch.randn(num_rows, size).to(dtype) for _, size, _ in SHAPES}


def least_seconds(passes: dict[str, Pass], clock: Clock) -> dict[str, float]:
    """The least time of each, in turns."""
    least = dict.fromkeys(passes, float("inf"))
    spent = 0.0
    while spent < BUDGET * len(passes):
        for name, run in passes.items():
            start = clock()
            run()
            took = clock() - start
            least[name], spent = min(least[name], took), spent + took
    return least


@dataclass(frozen=True, slots=True)
class Yardstick:
    """How time is taken, and what memory gives: GB/s, or a pass that reads READ_BYTES."""

    clock: Clock
    read: Pass | float

    @staticmethod
    def of(num_threads: int) -> Yardstick:
        """Before threads are bound: of all cores together where several compute."""
        if num_threads > 1:
            return Yardstick(time.perf_counter, read_gb_s())
        block = huge(READ_BYTES).view(torch.float32)
        return Yardstick(time.thread_time, lambda: drop(block.sum()))


def drop(_: Tensor) -> None: ...


def measure(
    weights: list[tuple[Tensor, bool]],
    panels: list[PackedLinear],
    num_rows: int,
    yardstick: Yardstick,
) -> dict[str, object]:
    passes, read = {"ours": our_pass(panels, num_rows)}, yardstick.read
    if callable(read):
        passes |= {"read": read, "torch": torch_pass(weights, num_rows)}
        packed_by_onednn = onednn_pass(weights, num_rows)
        if packed_by_onednn:
            passes["onednn"] = packed_by_onednn
    least = least_seconds(passes, yardstick.clock)
    read_speed = READ_BYTES / least["read"] / 1e9 if callable(read) else read
    num_bytes = sum(packed.memory.nbytes for packed in panels)
    gb_s = num_bytes / least["ours"] / 1e9
    flops = 2 * num_rows * sum(weight.numel() for weight, _ in weights)
    return {
        "dtype": str(weights[0][0].dtype).removeprefix("torch."),
        "rows": num_rows,
        "ms": round(least["ours"] * 1e3, 3),
        "gflops": round(flops / least["ours"] / 1e9, 1),
        "gb_s": round(gb_s, 1),
        "read_gb_s": round(read_speed, 1),
        "of_read": round(gb_s / read_speed, 2),
    } | {
        f"times_{name}": round(least[name] / least["ours"], 2)
        for name in ("torch", "onednn")
        if name in least
    }


def peak_gflops(dtype: torch.dtype, clock: Clock) -> float:
    """Of the same kernel, where neither rows nor weight come from memory."""
    weight = torch.randn(CACHED).to(dtype)
    (panels,) = panels_of([(weight, False)])
    x, out = torch.randn(CACHED_ROWS, CACHED[1]).to(dtype), torch.empty(CACHED_ROWS, CACHED[0])
    least = least_seconds({"cached": lambda: drop(linear(x, panels, out=out))}, clock)["cached"]
    return round(2 * CACHED_ROWS * weight.numel() / least / 1e9, 1)


def roofline(result: dict[str, Any]) -> str:
    """SVG: each dtype's GFLOP/s against operations for each byte of weights, under its roofs."""
    series = []
    for dtype, peak in result["peak_gflops"].items():
        rows = [row for row in result["rows"] if row["dtype"] == dtype]
        a_byte = 2 / getattr(torch, dtype).itemsize  # operations of one row
        points = [(row["rows"] * a_byte, row["gflops"]) for row in rows]
        texts = [f"{row['rows']} rows: {row['gflops']} GFLOP/s" for row in rows]
        read = max(row["read_gb_s"] for row in rows)
        ends = (points[0][0], peak / read, points[-1][0])
        roof = [(x, min(x * read, peak)) for x in ends]
        name = f"{dtype}, {read:.0f} GB/s, {peak:.0f} GFLOP/s"
        series += [Series(dtype, points, texts), Series(name, roof, is_line=True)]
    title = f"Linears of SmolLM2-135M, {result['machine']['threads']} threads"
    labels = "operations for each byte of weights", "GFLOP/s"
    return Chart(title, *labels, log_x=True, log_y=True, series=series).svg()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path, help="also write the result to this file")
    parser.add_argument("--plot", type=Path, help="draw it to this SVG file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yardstick = Yardstick.of(options.threads)
    _C.set_cores(cores()[: options.threads])
    rows, peaks = [], {}
    for dtype in (torch.bfloat16, torch.float32):
        peaks[str(dtype).removeprefix("torch.")] = peak_gflops(dtype, yardstick.clock)
        weights = [
            ((torch.randn(n, k) / k**0.5).to(dtype), gated)
            for _ in range(NUM_LAYERS)
            for n, k, gated in SHAPES
        ]
        panels = panels_of(weights)
        check(panels, weights)
        for num_rows in ROWS:
            rows.append(measure(weights, panels, num_rows, yardstick))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    result = {
        "bench": "cpu_linear",
        "command": shlex.join(
            ["python", "-m", "benchmarks.kernels.bench_cpu_linear", *sys.argv[1:]]
        ),
        "machine": {"cpu": cpu_name(), "isa": _C.cpu_isa(), "threads": options.threads},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "peak_gflops": peaks,
        "rows": rows,
    }
    if options.save:
        options.save.write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        options.plot.write_text(roofline(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
