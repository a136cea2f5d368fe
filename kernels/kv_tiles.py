"""Attention of some query rows over a range of paged KV: what decode and prefill share.

The rows of a tile are the query heads of one KV head, of one token (decode) or of several
(prefill). Keys and values come from pages in tiles of BLOCK_N positions whose bounds are multiples
of BLOCK_N, so a token meets its KV in the same pieces whatever it is computed with.

The softmax runs (Milakov and Gimelshein 2018) in powers of two: exp(s * scale) is
exp2(s * scale * log2(e)), and the constant is folded into the scale. A tile that a row does not see
changes nothing of it, to the bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl

from pdrt.kernels.tiles import load_pair, operand

LOG2_E = math.log2(math.e)
NO_WINDOW = 1 << 30  # a window that no sequence fills


class ScoreScale(NamedTuple):
    """Factors of scores: exp2(factor * s), with a soft cap s = tanh(inner * score / (2 log2 e))."""

    factor: float
    inner: float


def score_scale(scale: float, soft_cap: float) -> ScoreScale:
    """For softmax(scale * score), or softmax(soft_cap * tanh(scale * score / soft_cap)).

    Raises:
        ValueError: scale is not above 0, or soft_cap is below.
    """
    if not scale > 0:
        raise ValueError(f"{scale=}; give one above 0")
    if not soft_cap >= 0:
        raise ValueError(f"{soft_cap=}; give one above 0, or 0 for none")
    if soft_cap == 0:
        return ScoreScale(scale * LOG2_E, 0.0)
    return ScoreScale(soft_cap * LOG2_E, 2 * LOG2_E * scale / soft_cap)


@triton.jit
def slot_offsets(
    page_row,  # pointer to the row's page ids, int32
    start,  # first position of the tile, a multiple of BLOCK_N
    valid,  # [BLOCK_N] positions to look up, or None: all
    page_stride,
    SLOT_STRIDE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """[BLOCK_N] int64: where the positions' slots lie from the start of the pool's layer."""
    if PAGE_SIZE % BLOCK_N == 0:
        page = tl.load(page_row + start // PAGE_SIZE).to(tl.int64)
        slot = start % PAGE_SIZE + tl.arange(0, BLOCK_N)
        offsets = page * page_stride + slot * SLOT_STRIDE
    else:
        positions = start + tl.arange(0, BLOCK_N)
        if valid is None:
            pages = tl.load(page_row + positions // PAGE_SIZE)
        else:
            pages = tl.load(page_row + positions // PAGE_SIZE, mask=valid, other=0)
        offsets = pages.to(tl.int64) * page_stride + (positions % PAGE_SIZE) * SLOT_STRIDE
    return offsets


@triton.jit
def attend(
    query,  # ([M, FIRST], [M, SECOND]), as operand() gives them
    state,  # as nothing_yet() begins it
    start,  # positions start .. stop, in steps of BLOCK_N; start is a multiple of it
    stop,
    bounds,  # (low, high, own [M], window). MASKED: no slot before low or from high on is read;
    # with CAUSAL, a row sees positions up to its own; with WINDOWED, the last `window` of them
    pool,  # (the first key of the KV head in page 0, its first value, page ids, page stride)
    scales,  # (factor, inner) of score_scale()
    HEAD_DIM: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    SLOT_STRIDE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    MASKED: tl.constexpr,  # False: every row sees every position from start to stop
    CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """The state with the tiles from start to stop added."""
    query_first, query_second = query
    acc_first, acc_second, row_max, row_sum = state
    low, high, own, window = bounds
    keys, values, page_row, page_stride = pool
    factor, inner = scales
    for tile in tl.range(start, stop, BLOCK_N):
        positions = tile + tl.arange(0, BLOCK_N)
        valid = None
        if MASKED:
            valid = (positions >= low) & (positions < high)
        slots = slot_offsets(page_row, tile, valid, page_stride, SLOT_STRIDE, PAGE_SIZE, BLOCK_N)

        key_first, key_second = load_pair(keys + slots, valid, HEAD_DIM, FIRST, SECOND)
        scores = tl.dot(query_first, operand(key_first).T, input_precision="ieee")
        if SECOND > 0:
            key_second = operand(key_second).T
            scores = tl.dot(query_second, key_second, scores, input_precision="ieee")
        if SOFT_CAP:  # tanh(x) = 1 - 2 / (exp(2 x) + 1), to about 1e-7
            scores = 1 - 2 / (tl.exp2(scores * inner) + 1)
        if MASKED:
            seen = valid[None, :]
            if CAUSAL:
                seen = seen & (positions[None, :] <= own[:, None])
            if WINDOWED:
                seen = seen & (positions[None, :] > own[:, None] - window)
            scores = tl.where(seen, scores, float("-inf"))

        new_max = tl.maximum(row_max, tl.max(scores, 1) * factor)
        shift = new_max
        if MASKED:  # a row that has seen nothing yet: -inf - -inf would be NaN
            shift = tl.where(new_max == float("-inf"), 0.0, new_max)
        weights = tl.exp2(scores * factor - shift[:, None])
        decay = tl.exp2(row_max - shift)
        row_sum = row_sum * decay + tl.sum(weights, 1)
        row_max = new_max

        value_first, value_second = load_pair(values + slots, valid, HEAD_DIM, FIRST, SECOND)
        value_first = operand(value_first)
        weights = weights.to(value_first.dtype)
        acc_first = acc_first * decay[:, None]
        acc_first = tl.dot(weights, value_first, acc_first, input_precision="ieee")
        if SECOND > 0:
            acc_second = acc_second * decay[:, None]
            value_second = operand(value_second)
            acc_second = tl.dot(weights, value_second, acc_second, input_precision="ieee")
    return acc_first, acc_second, row_max, row_sum


@triton.jit
def nothing_yet(M: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """The state before the first tile, all float32, of a row each.

    acc_first [M, FIRST], acc_second [M, SECOND]: sum of exp2(score - row_max) * value; row_max [M]:
    largest score, times factor; row_sum [M]: sum of exp2(score - row_max).
    """
    acc_first = tl.zeros([M, FIRST], tl.float32)
    acc_second = acc_first
    if SECOND > 0:
        acc_second = tl.zeros([M, SECOND], tl.float32)
    return acc_first, acc_second, tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)


@triton.jit
def finished(state):
    """(output, output, natural log-sum-exp of scores); 0, 0 and -inf of rows that saw nothing."""
    LN_2: tl.constexpr = 0.6931471805599453
    acc_first, acc_second, row_max, row_sum = state
    some = row_sum > 0
    inverse = 1 / tl.where(some, row_sum, 1.0)
    lse = tl.where(some, (row_max + tl.log2(tl.where(some, row_sum, 1.0))) * LN_2, float("-inf"))
    return acc_first * inverse[:, None], acc_second * inverse[:, None], lse
