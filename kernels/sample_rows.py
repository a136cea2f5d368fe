"""What the kernels of sample.py share: rows of logits in tiles, and distances as sortable bits.

A row is always cut into tiles of TILE logits, whatever the batch and whichever program works on
them, and sums over tiles are taken in the order of the tiles. So the bits of a row's result depend
on that row alone.

The likelihood of a token is its distance from the row's largest logit, a float32 that is never
negative: as an int32 its bits sort as it does. Key 0 is the likeliest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # logits; a row has up to 256 tiles
LARGEST_KEY = tl.constexpr(0x7F7FFFFF)  # of the largest finite float32: banned tokens are beyond
COLDEST = tl.constexpr(1e-5)  # a temperature under it is greedy
LOG2_E = tl.constexpr(1.4426950408889634)


class Tiles(NamedTuple):
    """What the scan leaves of each tile of each row: [num_rows, num_tiles]."""

    maximum: Tensor  # float32, of the model's logits
    total: Tensor  # float32, sum of exp(logit - maximum)
    best: Tensor  # float32, largest logit that the token is chosen from
    best_id: Tensor  # int32, its token: of equals the lowest


@triton.jit
def row_logits(logits, edited, edit, row, ids, end, VOCAB: tl.constexpr):
    """Logits that a token is chosen from, float32: of the model, or edited where edit >= 0.

    ids from end on get -inf, without a memory access.
    """
    if edited is None:
        values = tl.load(logits + row * VOCAB + ids, mask=ids < end, other=float("-inf"))
        values = values.to(tl.float32)
    else:
        # Two loads of which one has no lanes: what is masked off costs no memory access.
        own_end = tl.where(edit < 0, end, 0)
        own = tl.load(logits + row * VOCAB + ids, mask=ids < own_end, other=float("-inf"))
        changed = edited + edit.to(tl.int64) * VOCAB + ids
        changed = tl.load(changed, mask=ids < end - own_end, other=float("-inf"))
        values = tl.where(edit < 0, own.to(tl.float32), changed)
    return values


@triton.jit
def keys_of(values, largest):
    """Bits of the distances from the largest: int32, 0 and up; of -inf above LARGEST_KEY."""
    return (largest - values).to(tl.int32, bitcast=True)


@triton.jit
def weights_of(keys, rate):
    """exp(-distance / temperature), for rate = log2(e) / temperature; 0 for -inf."""
    return tl.exp2(-keys.to(tl.float32, bitcast=True) * rate)


@triton.jit
def edit_of(edits, row):
    """The row of the edited logits that stands for this one, or -1."""
    if edits is None:
        edit = -1
    else:
        edit = tl.load(edits + row)
    return edit


@triton.jit
def tile_values(values, row, NUM_TILES: tl.constexpr, other):
    """[NUM_TILES to the next power of two] of one row of a [num_rows, NUM_TILES] tensor."""
    tile = tl.arange(0, triton.next_power_of_2(NUM_TILES))
    return tl.load(values + row * NUM_TILES + tile, mask=tile < NUM_TILES, other=other)


def empty_tiles(num_rows: int, num_tiles: int, device: torch.device) -> Tiles:
    shape = (num_rows, num_tiles)
    maximum, total, best = (torch.empty(shape, device=device) for _ in range(3))
    best_id = torch.empty(shape, dtype=torch.int32, device=device)
    return Tiles(maximum, total, best, best_id)
