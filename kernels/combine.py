"""Puts together what several programs found about parts of one row's KV.

Each part is attention over some of the positions, with the log-sum-exp of its scores. The whole is
their mean weighted by exp(lse), in float32 and in the parts' order: bits depend on the row's parts
and on nothing else.

Combining with log-sum-exps: Dao, Haziza, Massa and Sizov 2023 (Flash-Decoding).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pdrt.kernels.launch import OPTIONS, POINTERS, CompileCase, on_its_device
from pdrt.kernels.tiles import rounded

BLOCK_PARTS = 16  # parts read at once


@triton.jit(do_not_specialize=["parts_per_row"])
def _combine_kernel(
    parts,  # [num_parts, num_heads, HEAD_DIM] float32
    part_lse,  # [num_parts, num_heads] float32
    bounds,  # [num_rows + 1] int32: row r has the parts bounds[r] .. bounds[r + 1]; or None:
    parts_per_row,  # r * parts_per_row .. (r + 1) * parts_per_row
    out,
    out_stride,
    out_head_stride,
    lse,  # [num_rows, num_heads] float32 or None
    num_heads,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if bounds is None:
        begin, end = row * parts_per_row, (row + 1) * parts_per_row
    else:
        begin, end = tl.load(bounds + row).to(tl.int64), tl.load(bounds + row + 1).to(tl.int64)
    if end - begin > 1:  # a single part was written to out by whoever computed it
        column = tl.arange(0, BLOCK_D)
        total, largest, weight_sum = tl.zeros([BLOCK_D], tl.float32), float("-inf"), 0.0
        for first in range(begin, end, BLOCK_PARTS):
            index = (first + tl.arange(0, BLOCK_PARTS)) * num_heads + head
            valid = first + tl.arange(0, BLOCK_PARTS) < end
            scores = tl.load(part_lse + index, mask=valid, other=float("-inf"))
            pointers = parts + index[:, None] * HEAD_DIM + column[None, :]
            mask = valid[:, None] & (column < HEAD_DIM)[None, :]
            values = tl.load(pointers, mask=mask, other=0.0)
            new_largest = tl.maximum(largest, tl.max(scores, 0))
            shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
            weights = tl.exp(scores - shift)
            decay = tl.exp(largest - shift)
            total = total * decay + tl.sum(values * weights[:, None], 0)
            weight_sum = weight_sum * decay + tl.sum(weights, 0)
            largest = new_largest
        pointers = out + row * out_stride + head * out_head_stride + column
        result = rounded(total / weight_sum, out.dtype.element_ty)
        tl.store(pointers, result, mask=column < HEAD_DIM)
        if lse is not None:
            tl.store(lse + row * num_heads + head, largest + tl.log(weight_sum))


@on_its_device
def combine(
    parts: Tensor,  # [num_parts, num_heads, head_dim] float32, contiguous
    part_lse: Tensor,  # [num_parts, num_heads] float32, contiguous; -inf: the part saw nothing
    bounds: Tensor
    | int,  # [num_rows + 1] int32, where each row's parts begin; or how many each has
    out: Tensor,  # [num_rows, num_heads, head_dim], any dtype of the kernels
    lse: Tensor | None = None,  # [num_rows, num_heads] float32, contiguous
) -> None:
    """out and lse of every row that has two parts or more; other rows stay as they are.

    At least one part of such a row must have seen something. Called by the attention kernels, whose
    arguments were checked.
    """
    num_rows, num_heads, head_dim = out.shape
    uniform = isinstance(bounds, int)
    _combine_kernel[(num_rows, num_heads)](
        parts,
        part_lse,
        None if uniform else bounds,
        bounds if uniform else 0,
        out,
        out.stride(0),
        out.stride(1),
        lse,
        num_heads,
        HEAD_DIM=head_dim,
        BLOCK_D=triton.next_power_of_2(head_dim),
        BLOCK_PARTS=BLOCK_PARTS,
        num_warps=4,
        **OPTIONS,
    )


def compile_cases() -> list[CompileCase]:
    return [
        _compile_case("decode", "*i32:16", 128),
        _compile_case("prefill", None, 256),
    ]


def _compile_case(name: str, bounds: str | None, head_dim: int) -> CompileCase:
    return CompileCase(
        name=f"combine {name} D{head_dim} bfloat16",
        kernel=_combine_kernel,
        arguments={
            "parts": "*fp32:16",
            "part_lse": "*fp32:16",
            "bounds": bounds,
            "parts_per_row": "i32",
            "out": POINTERS[torch.bfloat16],
            "out_stride": "i32:16",
            "out_head_stride": "i32:16",
            "lse": "*fp32:16",
            "num_heads": "i32:16",
            "HEAD_DIM": head_dim,
            "BLOCK_D": triton.next_power_of_2(head_dim),
            "BLOCK_PARTS": BLOCK_PARTS,
        },
    )
