"""Decode attention: GB/s of the keys and values of true head_dim, plus query and output.

Each case is one layer of a step, its work list made beforehand, as a step makes it once for all
layers. Layers of their own, together more than five L2 caches, are timed as one CUDA graph. Peers
compute the same rows from contiguous keys and values; `pad` is our own kernel with head_dim padded
to a power of two.

    python benchmarks/kernels/bench_decode_attention.py --output decode.json
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernels.attention_inputs import (
    PAGE_SIZE,
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
from pdrt.bench.gpu_timing import Call, num_rotations, random_bits
from pdrt.kernels.decode_attention import decode_attention
from pdrt.kernels.decode_work import DecodeWork, plan_decode

PHI_2, GQA = Heads(80, 32, 32), Heads(128, 32, 8)


@dataclass(frozen=True)
class Shape:
    heads: Heads
    lens: tuple[int, ...]
    name: str
    measure: str | None = None
    page_size: int = PAGE_SIZE
    split_tokens: int = 0  # the mode in which bits depend on the row alone
    with_flex: bool = False  # torch compiles it first, which takes seconds


def shapes(options: Options) -> Iterator[Shape]:
    if options.tiny:
        yield Shape(Heads(80, 2, 2), (70, 9), "tiny")
        return
    for batch in (1, 8, 32, 64):
        yield Shape(PHI_2, (2048,) * batch, f"{batch} x 2k", f"decode_d80_2k_b{batch}")
    draw = random.Random(0)
    ragged = tuple(draw.randrange(64, 2049) for _ in range(64))
    yield Shape(PHI_2, ragged, "64 ragged 64..2048", "decode_ragged_b64")
    for batch in (8, 32, 128):
        yield Shape(GQA, (8192,) * batch, f"{batch} x 8k", f"decode_gqa_d128_8k_b{batch}")
    if options.quick:
        return
    yield Shape(PHI_2, (2048,) * 64, "64 x 2k", page_size=64)
    yield Shape(PHI_2, (2048,) * 8, "8 x 2k, fixed parts of 512", split_tokens=512)
    for heads in (Heads(64, 32, 8), Heads(96, 32, 32), Heads(256, 16, 8)):
        yield Shape(heads, (4096,) * 32, "32 x 4k")
    # Last, since torch's compiler may take the rest of the time.
    yield Shape(PHI_2, (2048,) * 64, "64 x 2k", with_flex=True)
    yield Shape(GQA, (8192,) * 32, "32 x 8k", with_flex=True)


def cases(options: Options) -> Iterator[Case]:
    for shape in shapes(options):
        yield case(shape, options.device)


def case(shape: Shape, device: torch.device) -> Case:
    heads, lens = shape.heads, list(shape.lens)
    moved = sum(lens) * heads.kv_bytes + len(lens) * heads.query_bytes
    num_layers = num_rotations(moved, device)
    pool = random_pool(heads, lens, num_layers, device, shape.page_size)
    query = random_bits(len(lens) * heads.num_heads * heads.head_dim, device)
    query = query.view(len(lens), heads.num_heads, heads.head_dim)
    work = planned(shape, pool, device)
    calls = [
        partial(
            decode_attention,
            query,
            layer,
            pool.page_table,
            pool.seq_lens,
            scale_of(query),
            work=work,
            out=torch.empty_like(query),
        )
        for layer in pool.layers
    ]
    return Case(
        op="decode_attention",
        shape={"heads": heads.label, "lens": shape.name, "page_size": shape.page_size},
        call=calls,
        check=lambda: check(calls[0](), query, pool),
        bytes_moved=moved,
        flops=4.0 * sum(lens) * heads.num_heads * heads.head_dim,
        measure=shape.measure,
        peers=peers(shape, query, calls),
    )


def planned(shape: Shape, pool: Pool, device: torch.device) -> DecodeWork:
    heads, num_sms = shape.heads, 1
    if device.type == "cuda":
        num_sms = torch.cuda.get_device_properties(device).multi_processor_count
    work = DecodeWork.allocate(
        len(shape.lens),
        heads.num_heads,
        heads.num_kv_heads,
        heads.head_dim,
        num_sms,
        device,
        split_tokens=shape.split_tokens,
        max_seq_len=pool.page_table.shape[1] * shape.page_size,
    )
    plan_decode(pool.seq_lens, work)
    return work


def check(out: Tensor, query: Tensor, pool: Pool) -> None:
    """The first rows and the last; the others are computed no differently."""
    for row in {0, 1, len(out) - 1} & set(range(len(out))):
        length = int(pool.seq_lens[row])
        part = slice(row, row + 1)
        check_row(out[part], query[part], pool.layers[0], pool.page_table[row], length)


def peers(shape: Shape, query: Tensor, calls: list[partial[Tensor]]) -> dict[str, list[Call]]:
    heads, lens = shape.heads, shape.lens
    found: dict[str, list[Call]] = {}
    if heads.head_dim & (heads.head_dim - 1):
        found["pad"] = [padded(call) for call in calls]
    if not (shape.measure or shape.with_flex) or len(set(lens)) > 1:
        return found  # rows of one length are all that contiguous keys can hold
    size = (2, len(lens), heads.num_kv_heads, lens[0], heads.head_dim)
    layers = [random_bits(torch.Size(size).numel(), query.device).view(size) for _ in calls]
    for name, backend in SDPA.items():
        found[name] = [
            partial(sdpa, backend, query.unsqueeze(2), layer, is_causal=False) for layer in layers
        ]
    if shape.with_flex:
        from torch.nn.attention.flex_attention import flex_attention  # seconds, when it is wanted

        flex = torch.compile(flex_attention, dynamic=False)  # which knows rows of one token
        found["flex"] = [
            partial(flex, query.unsqueeze(2), layer[0], layer[1], enable_gqa=True)
            for layer in layers
        ]
    return found


if __name__ == "__main__":
    sys.exit(run_bench("decode_attention", cases, sys.argv[1:], __doc__))
