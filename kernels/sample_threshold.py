"""Which tokens min_p, top_k and top_p leave: a key, and how many of the tokens with that key.

All three keep the likeliest, so what they leave is cut off at one key (sample_rows.py), and of the
tokens just there the lowest ids stay. No row is sorted: an interval of keys that holds the cut is
narrowed, eight pivots a pass, by how many tokens, or how much weight, lie up to each pivot. As soon
as few enough tokens are in question their keys are gathered, and the passes go over them alone.

One program a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pdrt.kernels.launch import OPTIONS, CompileCase
from pdrt.kernels.sample_rows import (
    COLDEST,
    LARGEST_KEY,
    LOG2_E,
    TILE,
    edit_of,
    keys_of,
    row_logits,
    tile_values,
    weights_of,
)

BLOCK = 2048  # keys of a pass that are looked at together
NEAR = 4096  # keys that are gathered at most
WAYS = tl.constexpr(8)
WARPS = 16


@triton.jit
def _gather(
    logits, edited, edit, row, near, largest, reach,
    VOCAB: tl.constexpr, BLOCK: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """Writes keys up to reach to near, in the order of ids; how many, or -1: more than NEAR."""
    used, start = 0, 0
    while (start < VOCAB) & (used <= NEAR):
        ids = start + tl.arange(0, BLOCK)
        keys = keys_of(row_logits(logits, edited, edit, row, ids, VOCAB, VOCAB), largest)
        taken = keys <= reach
        place = used + tl.cumsum(taken.to(tl.int32), 0) - 1
        tl.store(near + place, keys, mask=taken & (place < NEAR))
        used += tl.sum(taken.to(tl.int32))
        start += BLOCK
    tl.debug_barrier()  # other threads read them
    return tl.where(used <= NEAR, used, -1)


@triton.jit
def _up_to(
    logits, edited, edit, row, near, num_near, largest, rate, pivots,
    BY_WEIGHT: tl.constexpr, VOCAB: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """How many tokens have keys up to each pivot, or what they weigh: [WAYS] float32."""
    total = tl.zeros([BLOCK, WAYS], tl.float32)  # counts too are exact: under 2^24
    is_near = num_near >= 0
    end = tl.where(is_near, 0, VOCAB)
    for start in range(0, tl.maximum(num_near, end), BLOCK):
        place = start + tl.arange(0, BLOCK)
        gathered = tl.load(near + place, mask=place < num_near, other=0x7FFFFFFF)
        values = row_logits(logits, edited, edit, row, place, end, VOCAB)
        keys = tl.where(is_near, gathered, keys_of(values, largest))
        inside = keys[:, None] <= pivots[None, :]
        if BY_WEIGHT:
            total += tl.where(inside, weights_of(keys, rate)[:, None], 0.0)
        else:
            total += tl.where(inside, 1.0, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _search(
    logits, edited, edit, row, near, num_near, largest, rate, high, goal,
    BY_WEIGHT: tl.constexpr, VOCAB: tl.constexpr, BLOCK: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """The least key up to which tokens reach the goal, at most high.

    Returns:
        (key, count or weight of the tokens below it, num_near)
    """
    low, below = tl.full([], 0, tl.int32), tl.full([], 0.0, tl.float32)
    while low < high:
        step = (high - low) // WAYS + 1
        pivots = tl.minimum(low + step * (tl.arange(0, WAYS) + 1) - 1, high)
        totals = _up_to(
            logits, edited, edit, row, near, num_near, largest, rate, pivots,
            BY_WEIGHT, VOCAB, BLOCK,
        )  # fmt: skip
        short = (totals < goal) & (pivots < high)
        below = tl.maximum(below, tl.max(tl.where(short, totals, 0.0)))
        low += step * tl.sum(short.to(tl.int32))
        high = tl.minimum(low + step - 1, high)
        if (num_near < 0) & (low < high):
            num_near = _gather(logits, edited, edit, row, near, largest, high, VOCAB, BLOCK, NEAR)
    return low, below, num_near


@triton.jit
def _weight(key, rate):
    """Of one key."""
    return tl.max(weights_of(tl.zeros([1], tl.int32) + key, rate))


@triton.jit
def _reach(best, row, largest, top_k, min_p, temperature, NUM_TILES: tl.constexpr):
    """A key beyond which min_p and top_k leave nothing; with min_p alone the exact one."""
    reach = LARGEST_KEY
    if min_p > 0.0:
        distance = tl.abs(tl.log(min_p)) * temperature
        reach = tl.minimum(reach, distance.to(tl.float32).to(tl.int32, bitcast=True))
    if (top_k > 0) & (top_k <= NUM_TILES):
        # As many tokens as there are tiles are no farther off than the tiles' best.
        keys = tl.sort(keys_of(tile_values(best, row, NUM_TILES, float("-inf")), largest))
        rank = tl.arange(0, triton.next_power_of_2(NUM_TILES)) + 1
        reach = tl.minimum(reach, tl.max(tl.where(rank == top_k, keys, 0)))
    return reach


@triton.jit
def _threshold_kernel(
    logits,
    edited,  # or None
    edits,  # or None
    best,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    near,  # [num_rows, NEAR] int32, for the kernel's own use
    thresholds,
    ties,
    VOCAB: tl.constexpr,
    NUM_TILES: tl.constexpr,
    BLOCK: tl.constexpr,
    NEAR: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    top_k = tl.load(top_ks + row)
    top_p = tl.load(top_ps + row)
    min_p = tl.load(min_ps + row)
    tl.store(thresholds + row, LARGEST_KEY)
    tl.store(ties + row, VOCAB)
    if (temperature < COLDEST) | ((top_k <= 0) & (top_p >= 1.0) & (min_p <= 0.0)):
        return
    edit = edit_of(edits, row)
    largest = tl.max(tile_values(best, row, NUM_TILES, float("-inf")))
    rate = LOG2_E / temperature.to(tl.float32)
    near += row * NEAR
    key = _reach(best, row, largest, top_k, min_p, temperature, NUM_TILES)
    num_near = _gather(logits, edited, edit, row, near, largest, key, VOCAB, BLOCK, NEAR)
    tie = VOCAB  # all of them
    if (top_k > 0) & ((num_near < 0) | (top_k < num_near)):
        key, below, num_near = _search(
            logits, edited, edit, row, near, num_near, largest, rate, key, top_k.to(tl.float32),
            False, VOCAB, BLOCK, NEAR,
        )  # fmt: skip
        tie = top_k - below.to(tl.int32)
    if top_p < 1.0:
        pivots = key - (tl.arange(0, WAYS) == 0).to(tl.int32)
        weights = _up_to(
            logits, edited, edit, row, near, num_near, largest, rate, pivots, True, VOCAB, BLOCK
        )
        kept = tl.minimum(tl.max(weights), tl.min(weights) + tie * _weight(key, rate))
        goal = top_p * kept
        end = key
        key, below, num_near = _search(
            logits, edited, edit, row, near, num_near, largest, rate, end, goal,
            True, VOCAB, BLOCK, NEAR,
        )  # fmt: skip
        needed = tl.ceil((goal - below) / _weight(key, rate))
        needed = tl.minimum(tl.maximum(needed, 1.0), VOCAB).to(tl.int32)
        tie = tl.where(key == end, tl.minimum(tie, needed), needed)
    tl.store(thresholds + row, key)
    tl.store(ties + row, tie)


def threshold(
    logits: Tensor,
    edited: Tensor | None,
    edits: Tensor | None,
    best: Tensor,
    filters: tuple[Tensor, Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Where each row is cut: keys, and how many tokens of just that key stay; [num_rows] int32.

    filters: temperature, top_k, top_p, min_p.
    """
    num_rows, vocab_size = logits.shape
    thresholds, ties = (
        torch.empty(num_rows, dtype=torch.int32, device=logits.device) for _ in range(2)
    )
    near = torch.empty(num_rows, NEAR, dtype=torch.int32, device=logits.device)
    _threshold_kernel[(num_rows,)](
        logits,
        edited,
        edits,
        best,
        *filters,
        near,
        thresholds,
        ties,
        vocab_size,
        best.shape[1],
        BLOCK,
        NEAR,
        num_warps=WARPS,
        **OPTIONS,
    )
    return thresholds, ties


def compile_cases() -> list[CompileCase]:
    return [
        CompileCase(
            name=f"sample threshold {vocab_size} {logits} edited={edited is not None}",
            kernel=_threshold_kernel,
            arguments={
                "logits": f"*{logits}:16",
                "edited": edited,
                "edits": edited and "*i32:16",
                "best": "*fp32:16",
                "temperatures": "*fp64:16",
                "top_ks": "*i32:16",
                "top_ps": "*fp64:16",
                "min_ps": "*fp64:16",
                "near": "*i32:16",
                "thresholds": "*i32:16",
                "ties": "*i32:16",
                "VOCAB": vocab_size,
                "NUM_TILES": triton.cdiv(vocab_size, TILE),
                "BLOCK": BLOCK,
                "NEAR": NEAR,
            },
            num_warps=WARPS,
        )
        for vocab_size, logits, edited in [
            (51200, "fp32", None),
            (151936, "bf16", None),
            (262144, "bf16", "*fp32:16"),
        ]
    ]
