"""What rope_kv_write.py does with parts of heads: reading, rotating and writing them.

A part is columns of BLOCK_HEADS rows of HEAD_DIM elements, held in float32. Pairs are two parts,
firsts and seconds, whichever way they lie in memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pdrt.kernels.tiles import rounded


@triton.jit
def _columns(rows, mask, START: tl.constexpr, WIDTH: tl.constexpr, END: tl.constexpr):
    """Columns START .. START + WIDTH of rows [n] as float32 [n, WIDTH]; 0 from END on."""
    column = START + tl.arange(0, WIDTH)[None, :]
    mask = mask[:, None]
    if START + WIDTH > END:
        mask = mask & (column < END)
    return tl.load(rows[:, None] + column, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _pairs(
    rows, mask, START: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """The first and the second of pairs START .. START + WIDTH of HALF, both [n, WIDTH]."""
    if INTERLEAVED:
        both = _columns(rows, mask, 2 * START, 2 * WIDTH, 2 * HALF)
        first, second = tl.split(tl.reshape(both, [both.shape[0], WIDTH, 2]))
    else:
        first = _columns(rows, mask, START, WIDTH, HALF)
        second = _columns(rows, mask, HALF + START, WIDTH, 2 * HALF)
    return first, second


@triton.jit
def _store(rows, mask, values, START: tl.constexpr, WIDTH: tl.constexpr, END: tl.constexpr):
    column = START + tl.arange(0, WIDTH)[None, :]
    mask = mask[:, None]
    if START + WIDTH > END:
        mask = mask & (column < END)
    tl.store(rows[:, None] + column, rounded(values, rows.dtype.element_ty), mask=mask)


@triton.jit
def _store_pairs(
    rows, mask, first, second, START: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    if INTERLEAVED:
        both = tl.reshape(tl.join(first, second), [first.shape[0], 2 * WIDTH])
        _store(rows, mask, both, 2 * START, 2 * WIDTH, 2 * HALF)
    else:
        _store(rows, mask, first, START, WIDTH, HALF)
        _store(rows, mask, second, HALF + START, WIDTH, 2 * HALF)


@triton.jit
def _rotate(
    first, second, q_norm, k_norm, factor, is_query, turned, angles,
    START: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """Pairs normed and turned in the rows that are `turned`; the others come as they are, also
    where they are not numbers."""
    x, y, turned = first, second, turned[:, None]
    if q_norm is not None:
        one = tl.full([1], True, tl.int1)
        zero = tl.zeros([1], tl.int32)
        q_x, q_y = _pairs(q_norm + zero, one, START, WIDTH, HALF, INTERLEAVED)
        k_x, k_y = _pairs(k_norm + zero, one, START, WIDTH, HALF, INTERLEAVED)
        x *= factor[:, None] * tl.where(is_query[:, None], q_x, k_x)
        y *= factor[:, None] * tl.where(is_query[:, None], q_y, k_y)
    pair = START + tl.arange(0, WIDTH)
    cos = tl.load(angles + pair, mask=pair < HALF, other=1.0)[None, :]
    sin = tl.load(angles + HALF + pair, mask=pair < HALF, other=0.0)[None, :]
    return tl.where(turned, x * cos - y * sin, first), tl.where(turned, y * cos + x * sin, second)


@triton.jit
def read_rest(
    rows, bias, mask, START: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr
):  # fmt: skip
    values = _columns(rows, mask, START, WIDTH, HEAD_DIM)
    if bias is not None:
        values += _columns(bias, mask, START, WIDTH, HEAD_DIM)
    return values


@triton.jit
def read_pairs(
    rows, bias, mask, START: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    first, second = _pairs(rows, mask, START, WIDTH, HALF, INTERLEAVED)
    if bias is not None:
        more, other = _pairs(bias, mask, START, WIDTH, HALF, INTERLEAVED)
        first, second = first + more, second + other
    return first, second


@triton.jit
def write_pairs(
    rows, is_query, places, kept, q_norm, k_norm, factor, turned, angles, first, second,
    START: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    first, second = _rotate(
        first, second, q_norm, k_norm, factor, is_query, turned, angles,
        START, WIDTH, HALF, INTERLEAVED,
    )  # fmt: skip
    _store_pairs(rows, is_query, first, second, START, WIDTH, HALF, INTERLEAVED)
    _store_pairs(places, kept, first, second, START, WIDTH, HALF, INTERLEAVED)


@triton.jit
def write_rest(
    rows, is_query, places, kept, q_norm, k_norm, factor, turned, values,
    TOUCHES_QUERY: tl.constexpr, START: tl.constexpr, WIDTH: tl.constexpr, HEAD_DIM: tl.constexpr,
):  # fmt: skip
    if q_norm is not None:
        one = tl.full([1], True, tl.int1)
        zero = tl.zeros([1], tl.int32)
        q_weight = _columns(q_norm + zero, one, START, WIDTH, HEAD_DIM)
        k_weight = _columns(k_norm + zero, one, START, WIDTH, HEAD_DIM)
        normed = values * factor[:, None] * tl.where(is_query[:, None], q_weight, k_weight)
        values = tl.where(turned[:, None], normed, values)
    if TOUCHES_QUERY:
        _store(rows, is_query, values, START, WIDTH, HEAD_DIM)
    _store(places, kept, values, START, WIDTH, HEAD_DIM)
