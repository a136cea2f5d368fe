"""A row as one or two power-of-two tiles side by side, without masks where its size allows that.

    2560 = 2048 + 512, 768 = 512 + 256, 4096: exact; 7168: one tile of 8192, masked past the row

A row is always cut in the same way, whatever the number of rows: its sums have the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pdrt.kernels.tiles import rounded


def row_tiles(size: int, smallest: int = 1) -> tuple[int, int]:
    """(first, second) with first + second == size, or (a power of two above size, 0).

    `smallest` is the least width of a second tile, such that each thread has more than one element.
    """
    first = 1 << (size.bit_length() - 1)
    second = size - first
    if second == 0 or (second >= smallest and second & (second - 1) == 0):
        return first, second
    return 2 * first, 0


def row_warps(size: int) -> int:
    """Warps for a row: 16 to 32 elements a thread, up to half of what a CTA may have."""
    return min(16, max(1, (1 << (size.bit_length() - 1)) // 512))


@triton.jit
def load_tile(row, START: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """Columns START .. START + WIDTH of a row of SIZE elements as float32; 0 past the row."""
    column = START + tl.arange(0, WIDTH)
    if START + WIDTH > SIZE:
        values = tl.load(row + column, mask=column < SIZE, other=0.0)
    else:
        values = tl.load(row + column)
    return values.to(tl.float32)


@triton.jit
def store_tile(row, values, START: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """float32 values to the same columns, rounded to the dtype in memory."""
    column = START + tl.arange(0, WIDTH)
    values = rounded(values, row.dtype.element_ty)
    if START + WIDTH > SIZE:
        tl.store(row + column, values, mask=column < SIZE)
    else:
        tl.store(row + column, values)


@triton.jit
def load_sum(row, residual, START: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """A tile of the row to be normed: x, or residual + x, rounded and written to residual."""
    x = load_tile(row, START, WIDTH, SIZE)
    if residual is not None:
        x = x + load_tile(residual, START, WIDTH, SIZE)
        x = rounded(x, row.dtype.element_ty).to(tl.float32)
        store_tile(residual, x, START, WIDTH, SIZE)
    return x


@triton.jit
def inverse_root(mean_square, eps):
    """1 / sqrt(mean_square + eps), both steps correctly rounded."""
    return tl.math.div_rn(1.0, tl.math.sqrt_rn(mean_square + eps))
