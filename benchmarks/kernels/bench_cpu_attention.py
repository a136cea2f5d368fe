"""Paged attention on the CPU: prefill in GFLOP/s, decode in GB/s of keys and values read.

Prefill is bound by arithmetic, decode by memory, so each is given as a fraction of what this
machine was measured to do just before: torch's float32 matrix product (1024 x 1024), and a read of
256 MB from end to end. Prefill is also compared with torch's scaled_dot_product_attention over the
same keys and values, gathered and repeated for the heads of a group beforehand.

Results are checked against the plain torch twin before anything is timed. Times are CPU time of
this process on one thread, the least of all runs; a single long row, which is cut into ranges for
several threads, is timed by the clock on one thread and on two. The last line is the whole result
as JSON; --save FILE keeps it. Decode reads scattered pieces of one page and head, 2 to 8 KB each,
which no machine does at the speed of one long read.

    python benchmarks/kernels/bench_cpu_attention.py --save benchmarks/results/cpu/attention.json
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pdrt import _C
from pdrt.kernels import reference
from pdrt.kernels.cpu import paged_attention

PAGE_SIZE = 16

# query, kv_layer, page_table, cu_seqlens_q, seq_lens
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Shape:
    phase: (
        str  # prefill: one row, all its tokens new; decode: num_rows rows with one new token each
    )
    head_dim: int
    num_heads: int
    num_kv_heads: int
    seq_len: int
    num_rows: int = 1

    @property
    def num_new(self) -> int:
        return self.seq_len if self.phase == "prefill" else 1

    @property
    def flops(self) -> float:
        """Two multiply-adds for each dimension of each pair of a token and one that it sees."""
        pairs = self.num_new * (2 * self.seq_len - self.num_new + 1) / 2
        return 4 * self.head_dim * self.num_heads * pairs * self.num_rows

    def kv_bytes(self, dtype: torch.dtype) -> int:
        per_token = 2 * self.num_kv_heads * self.head_dim * dtype.itemsize
        return self.num_rows * self.seq_len * per_token


SHAPES = [
    Shape("prefill", 64, 9, 3, 512),
    Shape("prefill", 64, 9, 3, 1500),
    Shape("prefill", 80, 32, 32, 512),
    Shape("prefill", 128, 32, 8, 512),
    Shape("decode", 64, 9, 3, 1024, num_rows=8),
    Shape("decode", 64, 9, 3, 1024, num_rows=64),
    Shape("decode", 80, 32, 32, 1024, num_rows=8),
    Shape("decode", 128, 32, 8, 1024, num_rows=16),
]
LONG_ROWS = [Shape("decode", 64, 9, 3, seq_len) for seq_len in (2048, 8192, 32768)]


def arguments(shape: Shape, dtype: torch.dtype) -> Arguments:
    """Pages in a scattered order."""
    row_pages = -(-shape.seq_len // PAGE_SIZE)
    num_pages = shape.num_rows * row_pages
    num_tokens = shape.num_rows * shape.num_new
    return (
        torch.randn(num_tokens, shape.num_heads, shape.head_dim).to(dtype),
        torch.randn(num_pages, 2, shape.num_kv_heads, PAGE_SIZE, shape.head_dim).to(dtype),
        torch.randperm(num_pages).int().view(shape.num_rows, row_pages),
        torch.arange(0, num_tokens + 1, shape.num_new, dtype=torch.int32),
        torch.full((shape.num_rows,), shape.seq_len, dtype=torch.int32),
    )


def least_seconds(
    call: Callable[[], object],
    budget: float = 1.0,
    clock: Callable[[], float] = time.process_time,
) -> float:
    least, spent = float("inf"), 0.0
    while spent < budget:
        start = clock()
        call()
        took = clock() - start
        least, spent = min(least, took), spent + took
    return least


def machine_limits() -> dict[str, float]:
    square, block = torch.randn(1024, 1024), torch.ones(64 << 20)
    return {
        "matmul_gflops": round(2 * 1024**3 / least_seconds(lambda: square @ square) / 1e9, 1),
        "read_gb_s": round(block.nbytes / least_seconds(block.sum) / 1e9, 1),
    }


def torch_prefill_seconds(shape: Shape, query: Tensor, kv_layer: Tensor, pages: Tensor) -> float:
    group = shape.num_heads // shape.num_kv_heads
    gathered = kv_layer[pages[0].long()].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, : shape.seq_len]
    key, value = gathered.repeat_interleave(group, 1).unsqueeze(1).contiguous()
    heads = query.transpose(0, 1).unsqueeze(0).contiguous()
    return least_seconds(lambda: scaled_dot_product_attention(heads, key, value, is_causal=True))


def check(args: Arguments, scale: float) -> None:
    result, expected = paged_attention(*args, scale), reference.paged_attention(*args, scale)
    tolerance = 1e-5 if result.dtype is torch.float32 else 2e-2
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


def measure(shape: Shape, dtype: torch.dtype, limits: dict[str, float]) -> dict[str, object]:
    args, scale = arguments(shape, dtype), shape.head_dim**-0.5
    check(args, scale)
    seconds = least_seconds(lambda: paged_attention(*args, scale))
    row = described(shape, dtype) | {"us": round(seconds * 1e6, 1)}
    if shape.phase == "prefill":
        rate = shape.flops / seconds / 1e9
        against = torch_prefill_seconds(shape, *args[:3]) / seconds
        row |= {"gflops": round(rate, 1), "of_limit": round(rate / limits["matmul_gflops"], 2)}
        return row | {"times_torch_sdpa": round(against, 2)}
    rate = shape.kv_bytes(dtype) / seconds / 1e9
    return row | {"gb_s": round(rate, 1), "of_limit": round(rate / limits["read_gb_s"], 2)}


def described(shape: Shape, dtype: torch.dtype) -> dict[str, object]:
    return {
        "phase": shape.phase,
        "dtype": str(dtype).removeprefix("torch."),
        "head_dim": shape.head_dim,
        "heads": f"{shape.num_heads}/{shape.num_kv_heads}",
        "seq_len": shape.seq_len,
        "rows": shape.num_rows,
    }


def measure_threads(shape: Shape, dtype: torch.dtype) -> dict[str, object]:
    """One row alone, on one thread and on two, in turn."""
    args, scale = arguments(shape, dtype), shape.head_dim**-0.5
    check(args, scale)
    least = {1: float("inf"), 2: float("inf")}
    for _ in range(5):
        for threads in least:
            _C.set_num_threads(threads)
            took = least_seconds(lambda: paged_attention(*args, scale), 0.1, time.perf_counter)
            least[threads] = min(least[threads], took)
    _C.set_num_threads(1)
    return described(shape, dtype) | {
        "us_1_thread": round(least[1] * 1e6, 1),
        "us_2_threads": round(least[2] * 1e6, 1),
        "gb_s_2_threads": round(shape.kv_bytes(dtype) / least[2] / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--save", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    limits = machine_limits()
    print(f"{_C.cpu_isa()}, {limits}")
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES + LONG_ROWS:
            is_long = shape in LONG_ROWS
            row = measure_threads(shape, dtype) if is_long else measure(shape, dtype, limits)
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            rows.append(row)
    result = {
        "bench": "cpu_attention",
        "command": shlex.join(["python", *sys.argv]),
        "machine": {"cpu": cpu_name(), "isa": _C.cpu_isa(), "limits": limits},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "page_size": PAGE_SIZE,
        "rows": rows,
    }
    if options.save:
        options.save.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
