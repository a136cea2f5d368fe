"""Prefill attention: TFLOP/s of true head_dim, pairs behind the causal mask left out.

Each case is one layer of a step over a cold cache. Peers compute the same rows from contiguous keys
and values; `pad` is our own kernel with head_dim padded to a power of two; `rows 64`, `rows 128`
and `parts` are our own kernel with tiles cut otherwise.

    python benchmarks/kernels/bench_prefill_attention.py --output prefill.json
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernels.attention_inputs import (
    SDPA,
    Heads,
    Pool,
    check_row,
    padded,
    random_pool,
    scale_of,
    sdpa,
)
from pdrt.bench.gpu_bench import Case, Options, run_bench
from pdrt.bench.gpu_timing import Call, random_bits
from pdrt.kernels.prefill_attention import prefill_attention
from pdrt.kernels.prefill_tiles import PrefillTiles, plan_prefill, prefill_tiles

PHI_2, GQA = Heads(80, 32, 32), Heads(128, 32, 8)
TOKENS = 16384  # of a step, in rows of the length that a case is about


@dataclass(frozen=True)
class Shape:
    heads: Heads
    num_rows: int
    new: int  # tokens of each row
    seq_len: int
    measure: str | None = None
    with_flex: bool = False  # torch compiles it first, which takes seconds

    @property
    def flops(self) -> float:
        """Two multiply-adds for each dimension of each pair of a token and one that it sees."""
        pairs = self.new * (2 * self.seq_len - self.new + 1) / 2
        return 4 * self.heads.head_dim * self.heads.num_heads * pairs * self.num_rows


def shapes(options: Options) -> Iterator[Shape]:
    if options.tiny:
        yield Shape(Heads(80, 2, 2), 2, 20, 70)
        return
    for heads in (PHI_2, GQA):
        for k in (2, 4, 8):
            length = k << 10
            measure = f"prefill_d{heads.head_dim}_{k}k"
            yield Shape(heads, TOKENS // length, length, length, measure)
    if options.quick:
        return
    for seq_len in (2048, 8192):
        yield Shape(PHI_2, 1, 512, seq_len)
    yield Shape(GQA, 1, 256, 32768)
    for heads in (Heads(64, 32, 8), Heads(96, 32, 32), Heads(256, 16, 8)):
        yield Shape(heads, 4, 4096, 4096)
    for heads in (PHI_2, GQA):  # last, since torch's compiler may take the rest of the time
        yield Shape(heads, 4, 4096, 4096, with_flex=True)


def cases(options: Options) -> Iterator[Case]:
    for shape in shapes(options):
        yield case(shape, options.device)


def case(shape: Shape, device: torch.device) -> Case:
    heads, num_rows, new = shape.heads, shape.num_rows, shape.new
    pool = random_pool(heads, [shape.seq_len] * num_rows, 1, device)
    query = random_bits(num_rows * new * heads.num_heads * heads.head_dim, device)
    query = query.view(num_rows * new, heads.num_heads, heads.head_dim)
    bounds = torch.arange(0, num_rows * new + 1, new, dtype=torch.int32, device=device)
    lens = [new] * num_rows, [shape.seq_len] * num_rows
    num_sms = 1
    if device.type == "cuda":
        num_sms = torch.cuda.get_device_properties(device).multi_processor_count
    tiles = plan_prefill(*lens, heads.num_heads, heads.num_kv_heads, num_sms).to(device)

    def ours(tiles: PrefillTiles) -> Tensor:
        return prefill_attention(
            query,
            pool.layers[0],
            pool.page_table,
            bounds,
            pool.seq_lens,
            scale_of(query),
            tiles=tiles,
        )

    others = {"rows 64": (64, 1), "rows 128": (128, 1), "parts": (64, 4)}
    group = heads.num_heads // heads.num_kv_heads
    found: dict[str, Call] = {
        name: partial(ours, prefill_tiles(*lens, max(1, rows // group), parts).to(device))
        for name, (rows, parts) in others.items()
    }
    if heads.head_dim & (heads.head_dim - 1):
        found["pad"] = padded(partial(ours, tiles))
    return Case(
        op="prefill_attention",
        shape={"heads": heads.label, "rows": num_rows, "new": new, "seq_len": shape.seq_len},
        call=partial(ours, tiles),
        check=lambda: check(ours(tiles), query, pool, new),
        bytes_moved=num_rows * (shape.seq_len * heads.kv_bytes + new * heads.query_bytes),
        flops=shape.flops,
        measure=shape.measure,
        peers=found | peers(shape, query),
    )


def check(out: Tensor, query: Tensor, pool: Pool, new: int) -> None:
    """The last row's last tokens: they see nearly all KV, and scores of more would fill memory."""
    row, seq_len = len(pool.seq_lens) - 1, int(pool.seq_lens[-1])
    last = slice(len(out) - min(new, 256), len(out))
    check_row(out[last], query[last], pool.layers[0], pool.page_table[row], seq_len)


def peers(shape: Shape, query: Tensor) -> dict[str, Call]:
    if shape.new != shape.seq_len:
        return {}  # torch's causal mask begins at the first key
    heads, num_rows = shape.heads, shape.num_rows
    size = (2, num_rows, heads.num_kv_heads, shape.seq_len, heads.head_dim)
    kv = random_bits(torch.Size(size).numel(), query.device).view(size)
    rows = query.view(num_rows, shape.new, heads.num_heads, heads.head_dim).transpose(1, 2)
    rows = rows.contiguous()
    found: dict[str, Call] = {
        name: partial(sdpa, backend, rows, kv, is_causal=True) for name, backend in SDPA.items()
    }
    if shape.with_flex:
        found["flex"] = flex(rows, kv)
    return found


def flex(query: Tensor, kv: Tensor) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # seconds

    def causal(_row: Tensor, _head: Tensor, own: Tensor, position: Tensor) -> Tensor:
        return own >= position

    length = query.shape[2]
    mask = create_block_mask(causal, None, None, length, length, device=str(query.device))
    compiled = torch.compile(flex_attention)
    return partial(compiled, query, kv[0], kv[1], block_mask=mask, enable_gqa=True)


if __name__ == "__main__":
    sys.exit(run_bench("prefill_attention", cases, sys.argv[1:], __doc__))
