"""Scan of the logits, the draw of each row's token, and the likeliest tokens beside it.

    scan    each tile: the model's largest logit and the sum of exponents, and the best to choose
    weigh   each tile of a row that draws: the weight of its tokens before the cut
    draw    each row: its log-probability, and its token, for which it reads one tile again
    likeliest   each row: its largest logits, one after the other

A token is drawn by the inverse of the cumulated weights in the order of ids; sums of weights are
float64, the random number is tl.rand(seed, position), Philox4x32-10 of Salmon et al. 2011.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from pdrt.kernels.launch import CompileCase
from pdrt.kernels.sample_rows import (
    COLDEST,
    LOG2_E,
    TILE,
    edit_of,
    keys_of,
    row_logits,
    tile_values,
    weights_of,
)

WARPS = 4


@triton.jit
def scan_kernel(
    logits,
    edited,  # or None
    edits,  # or None
    maximum,
    total,
    best,
    best_id,
    VOCAB: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    ids = tl.program_id(0) * TILE + tl.arange(0, TILE)
    place = row * tl.num_programs(0) + tl.program_id(0)
    values = row_logits(logits, None, -1, row, ids, VOCAB, VOCAB)
    top = tl.max(values)
    base = tl.where(top == float("-inf"), 0.0, top)
    tl.store(maximum + place, top)
    tl.store(total + place, tl.sum(tl.exp(values - base)))
    if edited is not None:
        values = row_logits(logits, edited, edit_of(edits, row), row, ids, VOCAB, VOCAB)
        top = tl.max(values)
    tl.store(best + place, top)
    tl.store(best_id + place, tl.min(tl.where(values == top, ids, VOCAB - 1)))


@triton.jit
def weigh_kernel(
    logits,
    edited,  # or None
    edits,  # or None
    best,
    temperatures,
    thresholds,
    weights,  # [num_rows, num_tiles] float64: of the tokens before the cut
    equals,  # [num_rows, num_tiles] int32: how many are just at it
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    temperature = tl.load(temperatures + row)
    if temperature < COLDEST:
        return
    ids = tl.program_id(0) * TILE + tl.arange(0, TILE)
    largest = tl.max(tile_values(best, row, NUM_TILES, float("-inf")))
    values = row_logits(logits, edited, edit_of(edits, row), row, ids, VOCAB, VOCAB)
    keys = keys_of(values, largest)
    threshold = tl.load(thresholds + row)
    weight = weights_of(keys, LOG2_E / temperature.to(tl.float32))
    place = row * NUM_TILES + tl.program_id(0)
    tl.store(weights + place, tl.sum(tl.where(keys < threshold, weight, 0.0).to(tl.float64)))
    tl.store(equals + place, tl.sum((keys == threshold).to(tl.int32)))


@triton.jit
def _log_total(maximum, total, row, NUM_TILES: tl.constexpr):
    """(largest logit, log of the sum of exp(logit - largest)); NaN where not all are numbers."""
    tops = tile_values(maximum, row, NUM_TILES, float("-inf"))
    largest = tl.max(tops)
    sums = tile_values(total, row, NUM_TILES, 0.0)
    return largest, tl.log(tl.sum(sums * tl.exp(tops - largest)))


@triton.jit
def _first_tile(values, top, NUM_TILES: tl.constexpr):
    """The first of [NUM_TILES to the next power of two] values that is top."""
    tile = tl.arange(0, triton.next_power_of_2(NUM_TILES))
    return tl.min(tl.where((values == top) & (tile < NUM_TILES), tile, NUM_TILES - 1))


@triton.jit
def _drawn(
    logits, edited, edit, row, largest, temperature, random, threshold, ties, weights, equals,
    VOCAB: tl.constexpr, NUM_TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    rate = LOG2_E / temperature.to(tl.float32)
    tile = tl.arange(0, triton.next_power_of_2(NUM_TILES))
    equal = tile_values(equals, row, NUM_TILES, 0)
    # Ties stay by their ids: those of earlier tiles first.
    stay = tl.minimum(tl.maximum(ties - (tl.cumsum(equal, 0) - equal), 0), equal)
    one = tl.max(weights_of(tl.zeros([1], tl.int32) + threshold, rate)).to(tl.float64)
    weight = tile_values(weights, row, NUM_TILES, 0.0) + stay * one
    reached = tl.cumsum(weight, 0)
    goal = random.to(tl.float64) * tl.max(reached)
    last = tl.max(tl.where(weight > 0.0, tile, 0))
    chosen = tl.minimum(tl.sum((reached <= goal).to(tl.int32)), last)
    before = tl.max(tl.where(tile < chosen, reached, 0.0))
    stay = tl.sum(tl.where(tile == chosen, stay, 0))

    ids = chosen * TILE + tl.arange(0, TILE)
    keys = keys_of(row_logits(logits, edited, edit, row, ids, VOCAB, VOCAB), largest)
    at_cut = keys == threshold
    kept = (keys < threshold) | (at_cut & (tl.cumsum(at_cut.to(tl.int32), 0) <= stay))
    weight = tl.where(kept, weights_of(keys, rate), 0.0).to(tl.float64)
    reached = before + tl.cumsum(weight, 0)
    token = tl.min(tl.where(kept & (reached > goal), ids, VOCAB))
    last = tl.max(tl.where(kept & (weight > 0.0), ids, 0))  # where rounding leaves none
    return tl.where(token < VOCAB, token, last)


@triton.jit
def draw_kernel(
    logits,
    edited,  # or None
    edits,  # or None
    maximum,
    total,
    best,
    best_id,
    temperatures,
    seeds,
    positions,
    thresholds,
    ties,
    weights,
    equals,
    tokens,
    logprobs,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
    GREEDY: tl.constexpr,  # all rows are: what only a draw needs is not read
):
    row = tl.program_id(0).to(tl.int64)
    tops = tile_values(best, row, NUM_TILES, float("-inf"))
    largest = tl.max(tops)
    tile = _first_tile(tops, largest, NUM_TILES)
    token = tl.load(best_id + row * NUM_TILES + tile)
    if not GREEDY:
        temperature = tl.load(temperatures + row)
        if temperature >= COLDEST:
            random = tl.rand(tl.load(seeds + row), tl.load(positions + row))
            token = _drawn(
                logits, edited, edit_of(edits, row), row, largest, temperature, random,
                tl.load(thresholds + row), tl.load(ties + row), weights, equals,
                VOCAB, NUM_TILES, TILE,
            )  # fmt: skip
    top, log_total = _log_total(maximum, total, row, NUM_TILES)
    own = tl.load(logits + row * VOCAB + token).to(tl.float32)
    tl.store(tokens + row, token)
    tl.store(logprobs + row, own - top - log_total)


@triton.jit
def likeliest_kernel(
    logits,
    maximum,
    total,
    top_ids,  # [num_rows, NUM_TOP] int32
    top_logprobs,  # [num_rows, NUM_TOP] float32
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    TILE: tl.constexpr,
    NUM_TOP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    top, log_total = _log_total(maximum, total, row, NUM_TILES)
    tile = tl.arange(0, triton.next_power_of_2(NUM_TILES))
    tops = tile_values(maximum, row, NUM_TILES, float("-inf"))  # of what is not yet named
    value, token = float("inf"), -1
    for rank in range(NUM_TOP):
        chosen = _first_tile(tops, tl.max(tops), NUM_TILES)
        ids = chosen * TILE + tl.arange(0, TILE)
        values = row_logits(logits, None, -1, row, ids, VOCAB, VOCAB)
        left = (values < value) | ((values == value) & (ids > token))
        value = tl.max(tl.where(left, values, float("-inf")))
        token = tl.min(tl.where(left & (values == value), ids, VOCAB - 1))
        tl.store(top_ids + row * NUM_TOP + rank, token)
        tl.store(top_logprobs + row * NUM_TOP + rank, value - top - log_total)
        left = (values < value) | ((values == value) & (ids > token))
        next_value = tl.max(tl.where(left, values, float("-inf")))
        tops = tl.where(tile == chosen, next_value, tops)


def compile_cases() -> list[CompileCase]:
    shapes: list[tuple[int, str, str | None]] = [
        (51200, "fp32", None),
        (262144, "bf16", "*fp32:16"),
    ]
    return [case for shape in shapes for case in _compile_cases(*shape)]


def _compile_cases(vocab_size: int, logits: str, edited: str | None) -> list[CompileCase]:
    source = {"logits": f"*{logits}:16", "edited": edited, "edits": edited and "*i32:16"}
    model = {"maximum": "*fp32:16", "total": "*fp32:16"}
    best = {"best": "*fp32:16", "best_id": "*i32:16"}
    weighed = {"weights": "*fp64:16", "equals": "*i32:16"}
    sizes = {"VOCAB": vocab_size, "NUM_TILES": triton.cdiv(vocab_size, TILE), "TILE": TILE}
    request = {"temperatures": "*fp64:16", "seeds": "*i64:16", "positions": "*i32:16"}
    cut = {"thresholds": "*i32:16", "ties": "*i32:16"}
    chosen = {"tokens": "*i32:16", "logprobs": "*fp32:16"}
    scan = {**source, **model, **best, "VOCAB": vocab_size, "TILE": TILE}
    weigh = {
        **source,
        "best": "*fp32:16",
        "temperatures": "*fp64:16",
        "thresholds": "*i32:16",
        **weighed,
        **sizes,
    }
    draw = {**source, **model, **best, **request, **cut, **weighed, **chosen, **sizes}
    greedy = dict.fromkeys([*request, *cut, *weighed])
    tops = {"top_ids": "*i32:16", "top_logprobs": "*fp32:16"}
    likeliest = {"logits": source["logits"], **model, **tops, **sizes, "NUM_TOP": 20}
    kernels: list[tuple[str, Any, dict[str, Any]]] = [
        ("scan", scan_kernel, scan),
        ("weigh", weigh_kernel, weigh),
        ("draw", draw_kernel, {**draw, "GREEDY": False}),
        ("greedy", draw_kernel, {**draw, **greedy, "GREEDY": True}),
        ("likeliest", likeliest_kernel, likeliest),
    ]
    return [
        CompileCase(f"sample {name} {vocab_size} {logits} {edited=}", kernel, arguments, WARPS)
        for name, kernel, arguments in kernels
    ]
