"""The work list of a decode step: which rows are computed in how many parts, decided on the device.

A row's KV is read by one program or, where rows are few or long, in parts by several, and their
results are combined. The list is made once a step, from lengths that only the device knows, and all
layers share it: no host sync, a fixed grid, so it can be part of a CUDA graph.

    item i = (row, begin, end, num_parts): one program for each KV head reads positions begin .. end
    row r has the items row_items[r] .. row_items[r + 1]; its parts lie there too

Balanced: all items are about as long, and together enough to fill the card a few times over.
Fixed (split_tokens): items end at multiples of split_tokens, so the bits of a row depend on that
row alone: not on the batch, not on the card.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from pdrt.kernels.checks import check, check_contiguous
from pdrt.kernels.kv_tiles import NO_WINDOW
from pdrt.kernels.launch import OPTIONS, CompileCase, on_its_device

TILE_TOKENS = 64  # items begin and end at multiples of it, but for the ends of a row
MIN_TILES = 4  # the least in a part: shorter ones cost more to start and combine than they save
CTAS_PER_SM = 16  # programs wanted of a step: about four that fit at once, four times over
MAX_ROWS = 4096  # every program of the plan reads all lengths
BLOCK_PARTS = 32


@dataclass(frozen=True)
class DecodeWork:
    """Buffers of a step's work list and of its parts, kept for the life of a worker.

    window: of the layers that will use it, 0 for none. A list made with window 0 serves every
    layer; one made with a window serves the layers with that window, and is better balanced.
    """

    items: Tensor  # [capacity, 4] int32
    row_items: Tensor  # [max_rows + 1] int32
    parts: Tensor  # [capacity, num_heads, head_dim] float32
    part_lse: Tensor  # [capacity, num_heads] float32
    target_items: int  # that many items, beyond one a row, fill the card
    split_tokens: int  # 0: balanced
    longest: int  # with split_tokens: the tokens of the longest row
    window: int

    @classmethod
    def allocate(
        cls,
        max_rows: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        num_sms: int,
        device: torch.device | str,
        *,
        window: int = 0,
        split_tokens: int = 0,
        max_seq_len: int = 0,
    ) -> DecodeWork:
        """Balanced, or with split_tokens > 0 fixed for rows up to max_seq_len.

        Raises:
            ValueError: max_rows above 4096, split_tokens no multiple of 64, or given without
                max_seq_len.
        """
        if not 1 <= max_rows <= MAX_ROWS:
            raise ValueError(f"{max_rows=}; give 1 .. {MAX_ROWS}")
        if split_tokens % TILE_TOKENS or split_tokens < 0:
            raise ValueError(f"{split_tokens=}; give a multiple of {TILE_TOKENS}, or 0")
        if split_tokens and max_seq_len < 1:
            raise ValueError(f"{split_tokens=} with {max_seq_len=}; give the longest row's length")
        target = max(1, CTAS_PER_SM * num_sms // num_kv_heads)
        capacity = max_rows + target
        if split_tokens:
            capacity = max_rows * -(-max_seq_len // split_tokens)
        return cls(
            items=torch.zeros(capacity, 4, dtype=torch.int32, device=device),
            row_items=torch.zeros(max_rows + 1, dtype=torch.int32, device=device),
            parts=torch.zeros(capacity, num_heads, head_dim, device=device),
            part_lse=torch.zeros(capacity, num_heads, device=device),
            target_items=target,
            split_tokens=split_tokens,
            longest=max_seq_len,
            window=window,
        )

    @property
    def max_rows(self) -> int:
        return len(self.row_items) - 1

    def num_programs(self, num_rows: int) -> int:
        """For each KV head. There may be more items: programs then take several."""
        return min(len(self.items), num_rows + self.target_items)


@triton.jit(do_not_specialize=["num_rows"])
def _plan_kernel(
    seq_lens,  # [num_rows] int32
    items,  # [capacity, 4] int32
    row_items,  # [num_rows + 1] int32
    num_rows,
    target_items,
    window,
    split_tokens,
    FIXED: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    MIN_TILES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
):
    """One program a row; each looks at all lengths to find where its items go."""
    row = tl.program_id(0)
    rows = tl.arange(0, BLOCK_ROWS)
    lens = tl.load(seq_lens + rows, mask=rows < num_rows, other=0)
    own_len = tl.load(seq_lens + row)
    own_begin = tl.maximum(own_len - window, 0)
    unit = TILE_TOKENS
    if FIXED:
        unit = split_tokens
    units = tl.cdiv(lens, unit) - tl.maximum(lens - window, 0) // unit
    own_first = own_begin // unit
    own_units = tl.cdiv(own_len, unit) - own_first
    per_part = 1
    if not FIXED:
        per_part = tl.maximum(tl.cdiv(tl.sum(units, 0), target_items), MIN_TILES)
    first = tl.sum(tl.where(rows < row, tl.cdiv(units, per_part), 0), 0)
    num_parts = tl.cdiv(own_units, per_part)

    tl.store(row_items + row, first)
    if row == num_rows - 1:
        tl.store(row_items + num_rows, first + num_parts)
    for start in range(0, num_parts, BLOCK_PARTS):
        part = start + tl.arange(0, BLOCK_PARTS)
        valid = part < num_parts
        item = items + (first + part) * 4
        begin = (own_first + part * own_units // num_parts) * unit
        end = (own_first + (part + 1) * own_units // num_parts) * unit
        tl.store(item, tl.broadcast_to(row, [BLOCK_PARTS]), mask=valid)
        tl.store(item + 1, tl.maximum(begin, own_begin), mask=valid)
        tl.store(item + 2, tl.minimum(end, own_len), mask=valid)
        tl.store(item + 3, tl.broadcast_to(num_parts, [BLOCK_PARTS]), mask=valid)


@on_its_device
def plan_decode(
    seq_lens: Tensor,  # [num_rows] int32, contiguous; 0: a padded row, with no items
    work: DecodeWork,
) -> None:
    """Writes the step's work list for rows of these lengths. One launch, no host sync.

    Raises:
        ValueError: more rows than the work list has room for, or seq_lens does not fit.
    """
    num_rows = len(seq_lens)
    check("seq_lens", seq_lens, torch.int32, (num_rows,), work.items.device)
    check_contiguous("seq_lens", seq_lens)
    if not 1 <= num_rows <= work.max_rows:
        raise ValueError(f"seq_lens has {num_rows} rows; this work list takes 1 .. {work.max_rows}")
    _plan_kernel[(num_rows,)](
        seq_lens,
        work.items,
        work.row_items,
        num_rows,
        work.target_items,
        work.window or NO_WINDOW,
        work.split_tokens,
        FIXED=work.split_tokens > 0,
        TILE_TOKENS=TILE_TOKENS,
        MIN_TILES=MIN_TILES,
        BLOCK_ROWS=triton.next_power_of_2(work.max_rows),
        BLOCK_PARTS=BLOCK_PARTS,
        num_warps=4,
        **OPTIONS,
    )


def compile_cases() -> list[CompileCase]:
    return [
        CompileCase(
            name=f"plan_decode {'fixed' if fixed else 'balanced'} {block_rows} rows",
            kernel=_plan_kernel,
            arguments={
                "seq_lens": "*i32:16",
                "items": "*i32:16",
                "row_items": "*i32:16",
                "num_rows": "i32",
                "target_items": "i32",
                "window": "i32:16",
                "split_tokens": "i32:16",
                "FIXED": fixed,
                "TILE_TOKENS": TILE_TOKENS,
                "MIN_TILES": MIN_TILES,
                "BLOCK_ROWS": block_rows,
                "BLOCK_PARTS": BLOCK_PARTS,
            },
        )
        for fixed, block_rows in ((False, 64), (True, MAX_ROWS))
    ]
