"""How the new tokens of a prefill step are cut into tiles: decided on the host, from lengths that
the scheduler knows.

    tile i = (row, first): the row's new tokens first .. first + block_m, all heads of a KV head

Longest first (Graham 1969): a tile's work is the KV that it sees, and the short ones fill the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LARGE_BLOCK, SMALL_BLOCK = 128, 64  # rows of a tile: tokens times query heads of a KV head
CTAS_PER_SM = 2  # fewer programs than that leave the card idle
MIN_SPLIT_TOKENS = 512  # of KV, the least in a part


@dataclass(frozen=True)
class PrefillTiles:
    """A step's tiles, shared by all layers.

    num_splits: in how many parts the KV of each tile is read. 1 is the mode in which a token's bits
    depend on the token and its KV alone, whatever is computed beside it and in whichever chunk.
    """

    table: Tensor  # [num_tiles, 2] int32
    block_m: int  # tokens of a tile
    num_splits: int = 1

    def to(self, device: torch.device | str) -> PrefillTiles:
        """A copy, on its way when this returns: a GPU is not waited for."""
        is_gpu = torch.device(device).type == "cuda"
        table = self.table.pin_memory() if is_gpu else self.table
        return replace(self, table=table.to(device, non_blocking=True))


def prefill_tiles(
    query_lens: Sequence[int], seq_lens: Sequence[int], block_m: int, num_splits: int = 1
) -> PrefillTiles:
    """Tiles of block_m tokens for rows of so many new tokens and so many in all, on the CPU.

    Raises:
        ValueError: a row has more new tokens than tokens, or block_m or num_splits is below 1.
    """
    if block_m < 1 or num_splits < 1:
        raise ValueError(f"{block_m=}, {num_splits=}; give 1 or more")
    tiles = []
    for row, (query_len, seq_len) in enumerate(zip(query_lens, seq_lens, strict=True)):
        if query_len > seq_len:
            raise ValueError(f"row {row} has {query_len} new tokens, but {seq_len} in all")
        for first in range(0, query_len, block_m):
            seen = seq_len - query_len + min(first + block_m, query_len)
            tiles.append((-seen, row, first))
    table = torch.tensor([tile[1:] for tile in sorted(tiles)], dtype=torch.int32)
    return PrefillTiles(table.view(-1, 2), block_m, num_splits)


def plan_prefill(
    query_lens: Sequence[int],
    seq_lens: Sequence[int],
    num_heads: int,
    num_kv_heads: int,
    num_sms: int,
    *,
    batch_invariant: bool = False,
) -> PrefillTiles:
    """Tiles for a card with so many multiprocessors: large ones where there is enough work, else
    small ones, else small ones over parts of the KV.

    With batch_invariant, one size for all steps and no parts.
    """
    group = num_heads // num_kv_heads
    large, small = max(1, LARGE_BLOCK // group), max(1, SMALL_BLOCK // group)
    wanted = CTAS_PER_SM * num_sms
    if batch_invariant or _num_tiles(query_lens, large) * num_kv_heads >= wanted:
        return prefill_tiles(query_lens, seq_lens, large)
    num_programs = max(1, _num_tiles(query_lens, small) * num_kv_heads)
    num_splits = min(wanted // num_programs, max(seq_lens, default=0) // MIN_SPLIT_TOKENS)
    return prefill_tiles(query_lens, seq_lens, small, max(1, num_splits))


def _num_tiles(query_lens: Sequence[int], block_m: int) -> int:
    return sum(-(-query_len // block_m) for query_len in query_lens)
