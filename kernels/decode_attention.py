"""Attention of one new token a row over its paged KV: where a decode step spends its time.

    from pdrt.kernels.decode_attention import decode_attention
    out = decode_attention(query, kv_layer, page_table, seq_lens, scale=head_dim**-0.5)

Bound by memory: each program streams a part of one row's KV for one KV head, once for all query
heads that share it, which are the rows of one tl.dot. What a program reads is an item of the work
list (decode_work.py); a row in one item is written by its program, others by the combine kernel
(combine.py). Between steps and layers nothing is synchronised, so a step can be a CUDA graph: plan
once, then decode_attention for every layer.

Split KV: Dao, Haziza, Massa and Sizov 2023 (Flash-Decoding). Head groups: Ainslie et al. 2023.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pdrt.kernels.attention_arguments import (
    check_attention,
    check_results,
    head_constants,
)
from pdrt.kernels.combine import combine
from pdrt.kernels.decode_work import DecodeWork, plan_decode
from pdrt.kernels.kv_tiles import NO_WINDOW, attend, finished, nothing_yet, score_scale
from pdrt.kernels.launch import INTERPRETED, OPTIONS, on_its_device
from pdrt.kernels.tiles import load_pair, operand, store_pair


class Config(NamedTuple):
    block_n: int  # positions read at once; divides decode_work.TILE_TOKENS
    num_warps: int
    num_stages: int


def choose_config(head_dim: int, dtype: torch.dtype) -> Config:
    """Few registers and little shared memory, so that several programs share a multiprocessor."""
    if dtype is torch.float32:
        return Config(16 if head_dim > 128 else 32, 4, 2)
    return Config(32 if head_dim > 128 else 64, 4, 2)


@triton.jit(do_not_specialize=["page_table_stride", "num_rows"])
def decode_kernel(
    query,  # [num_rows, num_heads, HEAD_DIM]
    query_stride,
    query_head_stride,
    kv,  # [num_pages, 2, num_kv_heads, PAGE_SIZE, HEAD_DIM]
    page_stride,
    value_stride,
    head_stride,
    page_table,  # [num_rows, max_pages] int32
    page_table_stride,
    seq_lens,  # [num_rows] int32
    items,  # [capacity, 4] int32, as the plan wrote them
    row_items,  # [num_rows + 1] int32
    num_rows,
    out,  # [num_rows, num_heads, HEAD_DIM]
    out_stride,
    out_head_stride,
    lse,  # [num_rows, num_heads] float32 or None
    parts,  # [capacity, num_heads, HEAD_DIM] float32
    part_lse,  # [capacity, num_heads] float32
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    kv_head = tl.program_id(0) % num_kv_heads  # neighbours read neighbouring heads of a page
    program, num_programs = tl.program_id(0) // num_kv_heads, tl.num_programs(0) // num_kv_heads
    num_heads = num_kv_heads * GROUP
    member = tl.arange(0, BLOCK_M)
    valid, head = member < GROUP, kv_head * GROUP + member
    keys = kv + kv_head.to(tl.int64) * head_stride
    for item in range(program, tl.load(row_items + num_rows), num_programs):
        row = tl.load(items + item * 4).to(tl.int64)
        begin, end = tl.load(items + item * 4 + 1), tl.load(items + item * 4 + 2)
        num_parts = tl.load(items + item * 4 + 3)
        begin = tl.maximum(begin, tl.load(seq_lens + row) - window)

        rows = query + row * query_stride + head * query_head_stride
        query_first, query_second = load_pair(rows, valid, HEAD_DIM, FIRST, SECOND)
        state = attend(
            (operand(query_first), operand(query_second)),
            nothing_yet(BLOCK_M, FIRST, SECOND),
            begin // BLOCK_N * BLOCK_N,
            end,
            (begin, end, member, window),
            (keys, keys + value_stride, page_table + row * page_table_stride, page_stride),
            (factor, inner),
            HEAD_DIM,
            FIRST,
            SECOND,
            SLOT_STRIDE,
            PAGE_SIZE,
            BLOCK_N,
            SOFT_CAP,
            MASKED=True,
            CAUSAL=False,
            WINDOWED=False,
        )
        acc_first, acc_second, row_lse = finished(state)
        if num_parts == 1:
            out_rows = out + row * out_stride + head * out_head_stride
            store_pair(out_rows, valid, acc_first, acc_second, HEAD_DIM, FIRST, SECOND)
            if lse is not None:
                tl.store(lse + row * num_heads + head, row_lse, mask=valid)
        else:
            place = item * num_heads + head.to(tl.int64)
            part_rows = parts + place * HEAD_DIM
            store_pair(part_rows, valid, acc_first, acc_second, HEAD_DIM, FIRST, SECOND)
            tl.store(part_lse + place, row_lse, mask=valid)


@on_its_device
def decode_attention(
    query: Tensor,  # [num_rows, num_heads, head_dim] bfloat16, float16 or float32
    kv_layer: Tensor,  # [num_pages, 2, num_kv_heads, page_size, head_dim], dtype of query
    page_table: Tensor,  # [num_rows, max_pages] int32; entries past a row's end are never used
    seq_lens: Tensor,  # [num_rows] int32, contiguous; the new token's KV is the last
    scale: float,
    *,
    window: int = 0,
    soft_cap: float = 0.0,
    work: DecodeWork | None = None,
    out: Tensor | None = None,  # as query
    lse: Tensor | None = None,  # [num_rows, num_heads] float32: log-sum-exp of the scores, natural
) -> Tensor:
    """softmax(query . keys * scale) . values for each row and head; of the last `window` positions,
    or with window 0 of all.

    With a soft cap, scores are soft_cap * tanh(score * scale / soft_cap) (Gemma Team 2024). A row
    with seq_len 0 is padding: its rows of out and lse are not written.

    Args:
        work: the step's work list, made by plan_decode for these seq_lens. Without one it is made
            here, once a call: for trying things out.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    num_rows, num_heads, head_dim = query.shape
    num_kv_heads, page_size = kv_layer.shape[2:4]
    check_attention(query, kv_layer, page_table, seq_lens)
    if len(seq_lens) != num_rows:
        raise ValueError(f"seq_lens has {len(seq_lens)} rows, expected {num_rows}, as query has")
    out = check_results(query, out, lse)
    if num_rows == 0:
        return out
    if work is None:
        work = _own_work(query, num_kv_heads, window)
        plan_decode(seq_lens, work)
    _check_work(work, query, page_table.shape[1] * page_size, window)
    config = choose_config(head_dim, query.dtype)
    scales = score_scale(scale, soft_cap)
    decode_kernel[(num_kv_heads * work.num_programs(num_rows),)](
        query,
        *query.stride()[:2],
        kv_layer,
        *kv_layer.stride()[:3],
        page_table,
        page_table.stride(0),
        seq_lens,
        work.items,
        work.row_items,
        num_rows,
        out,
        *out.stride()[:2],
        lse,
        work.parts,
        work.part_lse,
        num_kv_heads,
        window or NO_WINDOW,
        scales.factor,
        scales.inner,
        **decode_constants(head_dim, num_heads // num_kv_heads, page_size, soft_cap > 0, config),
        SLOT_STRIDE=kv_layer.stride(3),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **OPTIONS,
    )
    combine(work.parts, work.part_lse, work.row_items, out, lse)
    return out


def _own_work(query: Tensor, num_kv_heads: int, window: int) -> DecodeWork:
    num_rows, num_heads, head_dim = query.shape
    num_sms = 1
    if not INTERPRETED:
        num_sms = torch.cuda.get_device_properties(query.device).multi_processor_count
    return DecodeWork.allocate(
        num_rows, num_heads, num_kv_heads, head_dim, num_sms, query.device, window=window
    )


def _check_work(work: DecodeWork, query: Tensor, max_len: int, window: int) -> None:
    num_rows, num_heads, head_dim = query.shape
    if work.parts.device != query.device:
        raise ValueError(f"work is on {work.parts.device}, expected {query.device}")
    if work.parts.shape[1:] != (num_heads, head_dim):
        made = tuple(work.parts.shape[1:])
        raise ValueError(f"work was made for heads {made}, query has {(num_heads, head_dim)}")
    if num_rows > work.max_rows:
        raise ValueError(f"work was made for {work.max_rows} rows, query has {num_rows}")
    if work.window not in (0, window):
        raise ValueError(f"work was made for window={work.window}, this call has {window=}")
    if work.split_tokens and max_len > work.longest:
        raise ValueError(f"work was made for rows of {work.longest}, page_table holds {max_len}")


def decode_constants(
    head_dim: int, group: int, page_size: int, soft_cap: bool, config: Config
) -> dict[str, Any]:
    return head_constants(head_dim, group) | {
        "PAGE_SIZE": page_size,
        "SOFT_CAP": soft_cap,
        "BLOCK_M": triton.next_power_of_2(group),
        "BLOCK_N": config.block_n,
    }
