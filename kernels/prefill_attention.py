"""Causal attention of many new tokens a row over paged KV: prefill, whole or in chunks.

    from pdrt.kernels.prefill_attention import prefill_attention
    from pdrt.kernels.prefill_tiles import prefill_tiles

    tiles = prefill_tiles(query_lens, seq_lens, block_m=64).to(query.device)
    out = prefill_attention(query, kv_layer, page_table, cu_seqlens_q, seq_lens, scale, tiles=tiles)

The keys and values of the new tokens are in their pages already, so there is one source of KV and
one loop. A program computes a tile of tokens for the query heads of one KV head, and its loop has
up to three stretches of KV:

    | window's edge: masked | seen by every token: no mask | diagonal: masked |

Bound by arithmetic, so the middle is kept free of all else. Where tiles are few against the card,
the KV of each is read in parts by several programs (prefill_tiles.py) and combined (combine.py).

Tiled attention: Dao, Fu, Ermon, Rudra and Ré 2022; with queries outermost, Dao 2023.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pdrt.kernels.attention_arguments import check_attention, check_results, head_constants
from pdrt.kernels.checks import check, check_contiguous
from pdrt.kernels.combine import combine
from pdrt.kernels.kv_tiles import NO_WINDOW, attend, finished, nothing_yet, score_scale
from pdrt.kernels.launch import OPTIONS, arch_of, on_its_device
from pdrt.kernels.prefill_tiles import SMALL_BLOCK, PrefillTiles
from pdrt.kernels.tiles import head_tiles, load_pair, operand, store_pair


class Config(NamedTuple):
    block_m: int  # rows of a program: tokens times query heads of a KV head
    block_n: int  # positions of KV read at once
    num_warps: int
    num_stages: int


def choose_config(rows: int, head_dim: int, dtype: torch.dtype, arch: int) -> Config:
    """For tiles of so many rows, by what the registers of a multiprocessor hold without spilling.

    From sm_90 on, tensor cores read operands from shared memory; before, from registers.
    """
    width = sum(head_tiles(head_dim))
    if dtype is torch.float32:  # no tensor cores
        return Config(32, 16, 8 if width <= 128 else 16, 2)
    large = rows > SMALL_BLOCK
    if arch < 90 and width > 128:
        return Config(64, 16, 8, 2)
    if arch < 90:
        return Config(128, 32, 8, 2) if large else Config(64, 32, 4, 2)
    if large:
        return Config(128, 128 if width <= 96 else 64 if width <= 128 else 32, 8, 2)
    return Config(64, 64 if width <= 128 else 32, 4, 2)


@triton.jit(do_not_specialize=["page_table", "page_table_stride", "seq_lens"])
def prefill_kernel(
    query,  # [num_tokens, num_heads, HEAD_DIM]
    query_stride,
    query_head_stride,
    kv,  # [num_pages, 2, num_kv_heads, PAGE_SIZE, HEAD_DIM]
    page_stride,
    value_stride,
    head_stride,
    page_table,  # [num_rows, max_pages] int32
    page_table_stride,
    cu_seqlens_q,  # [num_rows + 1] int32
    seq_lens,  # [num_rows] int32
    tiles,  # [num_tiles, 2] int32
    tile_tokens,
    out,  # [num_tokens, num_heads, HEAD_DIM], or with SPLIT [num_tokens * num_splits, ...] float32
    out_stride,
    out_head_stride,
    lse,  # [as out, num_heads] float32 or None
    num_kv_heads,
    window,
    factor,
    inner,
    HEAD_DIM: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    GROUP: tl.constexpr,
    SLOT_STRIDE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    WINDOWED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    kv_head, tile = tl.program_id(0) % num_kv_heads, tl.program_id(0) // num_kv_heads
    block, split, num_splits = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    row, first = tl.load(tiles + tile * 2).to(tl.int64), tl.load(tiles + tile * 2 + 1)
    query_start = tl.load(cu_seqlens_q + row)
    query_len = tl.load(cu_seqlens_q + row + 1) - query_start
    before = tl.load(seq_lens + row) - query_len  # position of the row's first new token

    member = block * BLOCK_M + tl.arange(0, BLOCK_M)
    in_tile = member // GROUP
    head = kv_head * GROUP + member % GROUP
    num_tokens = tl.minimum(tile_tokens, query_len - first)
    valid = in_tile < num_tokens
    token = (query_start + first + in_tile).to(tl.int64)
    own = before + first + in_tile
    rows = query + token * query_stride + head * query_head_stride
    query_first, query_second = load_pair(rows, valid, HEAD_DIM, FIRST, SECOND)

    # Positions seen by some token of the block: low .. high; by every one: edge .. diagonal.
    first_own = before + first + block * BLOCK_M // GROUP
    last_own = before + first + tl.minimum((block * BLOCK_M + BLOCK_M - 1) // GROUP, num_tokens - 1)
    low, high = tl.maximum(first_own - window + 1, 0), last_own + 1
    begin = low // BLOCK_N
    num_blocks = tl.maximum(tl.cdiv(high, BLOCK_N) - begin, 0)  # 0: a block past the row's end
    start = (begin + split * num_blocks // num_splits) * BLOCK_N
    stop = (begin + (split + 1) * num_blocks // num_splits) * BLOCK_N
    edge = start
    if WINDOWED:
        edge = tl.cdiv(tl.maximum(last_own - window + 1, 0), BLOCK_N) * BLOCK_N
        edge = tl.minimum(tl.maximum(edge, start), stop)
    diagonal = (first_own + 1) // BLOCK_N * BLOCK_N
    diagonal = tl.minimum(tl.maximum(diagonal, edge), stop)

    keys = kv + kv_head.to(tl.int64) * head_stride
    pool = (keys, keys + value_stride, page_table + row * page_table_stride, page_stride)
    state = nothing_yet(BLOCK_M, FIRST, SECOND)
    for stretch in tl.static_range(3):
        from_position = (start, edge, diagonal)[stretch]
        to_position = (edge, diagonal, stop)[stretch]
        if WINDOWED or stretch > 0:
            state = attend(
                (operand(query_first), operand(query_second)),
                state,
                from_position,
                to_position,
                (low, high, own, window),
                pool,
                (factor, inner),
                HEAD_DIM,
                FIRST,
                SECOND,
                SLOT_STRIDE,
                PAGE_SIZE,
                BLOCK_N,
                SOFT_CAP,
                MASKED=stretch != 1,
                CAUSAL=True,
                WINDOWED=WINDOWED,
            )
    acc_first, acc_second, row_lse = finished(state)
    place = token * num_splits + split
    out_rows = out + place * out_stride + head * out_head_stride
    store_pair(out_rows, valid, acc_first, acc_second, HEAD_DIM, FIRST, SECOND)
    if lse is not None:
        tl.store(lse + place * (num_kv_heads * GROUP) + head, row_lse, mask=valid)


@on_its_device
def prefill_attention(
    query: Tensor,  # [num_tokens, num_heads, head_dim] bfloat16, float16 or float32
    kv_layer: Tensor,  # [num_pages, 2, num_kv_heads, page_size, head_dim], dtype of query
    page_table: Tensor,  # [num_rows, max_pages] int32; entries past a row's end are never used
    cu_seqlens_q: Tensor,  # [num_rows + 1] int32, contiguous
    seq_lens: Tensor,  # [num_rows] int32, contiguous
    scale: float,
    *,
    tiles: PrefillTiles,
    window: int = 0,
    soft_cap: float = 0.0,
    out: Tensor | None = None,  # as query
    lse: Tensor | None = None,  # [num_tokens, num_heads] float32: log-sum-exp of scores, natural
) -> Tensor:
    """Causal attention of each row's new tokens over the KV of that row.

    A row with q new tokens and seq_len KV in all has its token i at position seq_len - q + i; it
    sees the last `window` positions up to its own, or with window 0 all of them. With a soft cap,
    scores are soft_cap * tanh(score * scale / soft_cap) (Gemma Team 2024).

    The KV of all new tokens of a row must be finite: a tile multiplies the values of its later
    tokens with weights of 0.

    Args:
        tiles: the step's, of prefill_tiles or plan_prefill for these lengths, on query's device.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads, page_size = kv_layer.shape[2:4]
    check_attention(query, kv_layer, page_table, seq_lens)
    check("cu_seqlens_q", cu_seqlens_q, torch.int32, (len(seq_lens) + 1,), query.device)
    check_contiguous("cu_seqlens_q", cu_seqlens_q)
    check("tiles.table", tiles.table, torch.int32, (len(tiles.table), 2), query.device)
    group = num_heads // num_kv_heads
    out = check_results(query, out, lse)
    if num_tokens == 0 or len(tiles.table) == 0:
        return out
    target, target_lse = out, lse
    if tiles.num_splits > 1:
        shape = (num_tokens * tiles.num_splits, num_heads, head_dim)
        target = parts = query.new_empty(shape, dtype=torch.float32)
        target_lse = part_lse = query.new_empty(shape[:2], dtype=torch.float32)
    num_query_rows = tiles.block_m * group
    config = choose_config(num_query_rows, head_dim, query.dtype, arch_of(query.device))
    scales = score_scale(scale, soft_cap)
    num_blocks = triton.cdiv(num_query_rows, config.block_m)
    prefill_kernel[(num_kv_heads * len(tiles.table), num_blocks, tiles.num_splits)](
        query,
        *query.stride()[:2],
        kv_layer,
        *kv_layer.stride()[:3],
        page_table,
        page_table.stride(0),
        cu_seqlens_q,
        seq_lens,
        tiles.table,
        tiles.block_m,
        target,
        *target.stride()[:2],
        target_lse,
        num_kv_heads,
        window or NO_WINDOW,
        scales.factor,
        scales.inner,
        **prefill_constants(head_dim, group, page_size, config),
        SLOT_STRIDE=kv_layer.stride(3),
        SOFT_CAP=soft_cap > 0,
        WINDOWED=window > 0,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **OPTIONS,
    )
    if tiles.num_splits > 1:
        combine(parts, part_lse, tiles.num_splits, out, lse)
    return out


def prefill_constants(head_dim: int, group: int, page_size: int, config: Config) -> dict[str, Any]:
    return head_constants(head_dim, group) | {
        "PAGE_SIZE": page_size,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
    }
