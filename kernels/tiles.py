"""Tiles of any head_dim out of Triton's powers of two, and numbers that come out alike everywhere.

A tile of Triton has power-of-two sides. Padding a head_dim of 80 to 128 wastes a third of the
tensor cores' work and of the registers, so a row of a head is held as two tiles side by side,
FIRST and SECOND wide: 80 = 64 + 16, 96 = 64 + 32. SECOND is 0 where one tile is as good.

    | FIRST: columns 0 .. FIRST | SECOND: columns FIRST .. FIRST + SECOND | masked past HEAD_DIM

Functions of two tiles take and give pairs. Where SECOND is 0, the second of a pair is a stand-in
that nothing reads, which the compiler drops.

Under Triton's interpreter bfloat16 is stored as bits and cannot be computed with, and storing cuts
off instead of rounding: `operand` and `rounded` make up for that, and do nothing on a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from pdrt.kernels.launch import INTERPRETED

MAX_HEAD_DIM = 256
SMALLEST = 16  # the least that a tensor core multiplies along


class HeadTiles(NamedTuple):
    """Widths of the two tiles of a head's row: powers of two from 16 up; second may be 0."""

    first: int
    second: int


def head_tiles(head_dim: int) -> HeadTiles:
    """The narrowest one or two tiles for a head_dim; of equal widths, one tile.

    64 -> (64, 0), 80 -> (64, 16), 96 -> (64, 32), 112 -> (128, 0), masked past 112.

    Raises:
        ValueError: head_dim is no multiple of 8 in 8 .. 256.
    """
    if head_dim % 8 or not 8 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"{head_dim=}; give a multiple of 8 in 8 .. {MAX_HEAD_DIM}")
    whole = max(SMALLEST, triton.next_power_of_2(head_dim))
    first = whole // 2
    second = max(SMALLEST, triton.next_power_of_2(head_dim - first))
    return HeadTiles(first, second) if first + second < whole else HeadTiles(whole, 0)


INTERPRETING = tl.constexpr(INTERPRETED)


@triton.jit
def operand(x):
    """x as it goes into arithmetic or tl.dot: float32 in the interpreter, itself on a GPU."""
    if INTERPRETING:
        x = x.to(tl.float32)
    return x


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 x as dtype, to nearest even also in the interpreter."""
    if INTERPRETING:
        if dtype == tl.bfloat16:
            bits = x.to(tl.uint32, bitcast=True)
            nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
            x = tl.where(x == x, nearest.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def load_tile(rows, valid, START: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr):
    """[n, WIDTH] columns from START on of the rows at [n] pointers; 0 where not valid."""
    column = START + tl.arange(0, WIDTH)
    pointers = rows[:, None] + column[None, :]
    if HEAD_DIM < START + WIDTH:
        inside = (column < HEAD_DIM)[None, :]
        if valid is not None:
            inside = inside & valid[:, None]
        tile = tl.load(pointers, mask=inside, other=0.0)
    elif valid is not None:
        tile = tl.load(pointers, mask=valid[:, None], other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def load_pair(
    rows,  # [n] pointers to the first elements of rows of HEAD_DIM elements
    valid,  # [n] rows to read, the others are 0; or None: all
    HEAD_DIM: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
):
    """([n, FIRST], [n, SECOND]) in the dtype in memory."""
    first = load_tile(rows, valid, 0, FIRST, HEAD_DIM)
    second = first
    if SECOND > 0:
        second = load_tile(rows, valid, FIRST, SECOND, HEAD_DIM)
    return first, second


@triton.jit
def store_pair(
    rows,  # [n] pointers
    valid,  # [n] rows to write
    first,  # [n, FIRST] float32
    second,  # [n, SECOND] float32
    HEAD_DIM: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
):
    """Rounds to the dtype that the pointers have."""
    dtype: tl.constexpr = rows.dtype.element_ty
    column = tl.arange(0, FIRST)
    mask = valid[:, None] & (column < HEAD_DIM)[None, :]
    tl.store(rows[:, None] + column[None, :], rounded(first, dtype), mask=mask)
    if SECOND > 0:
        column = FIRST + tl.arange(0, SECOND)
        mask = valid[:, None] & (column < HEAD_DIM)[None, :]
        tl.store(rows[:, None] + column[None, :], rounded(second, dtype), mask=mask)
