"""A decode step in tensors that stay: what recorded steps read, graphs on a GPU, tapes on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pdrt.model.batch import Batch

# What a row that pads a step holds: it reads no page and writes to none.
PADDING = {"input_ids": 0, "positions": 0, "slot_mapping": -1, "seq_lens": 0}


def is_decode(batch: Batch, max_rows: int) -> bool:
    """Whether each row, of so many at most, has one new token, whose logits are wanted."""
    num_rows = len(batch.seq_lens)
    return len(batch.input_ids) == num_rows == len(batch.wanted) and num_rows <= max_rows


def padding_batch(num_rows: int, max_pages: int, device: torch.device) -> Batch:
    """A decode step of rows that are padding only, in tensors that may be written to."""
    ints = {
        name: torch.full((num_rows,), value, dtype=torch.int32, device=device)
        for name, value in PADDING.items()
    }
    return Batch(
        **ints,
        page_table=torch.zeros(num_rows, max_pages, dtype=torch.int32, device=device),
        cu_seqlens_q=torch.arange(num_rows + 1, dtype=torch.int32, device=device),
        wanted=torch.arange(num_rows, device=device),
    )


def first_rows(batch: Batch, num_rows: int) -> Batch:
    """Views of the first rows of a decode step."""
    return Batch(
        input_ids=batch.input_ids[:num_rows],
        positions=batch.positions[:num_rows],
        slot_mapping=batch.slot_mapping[:num_rows],
        page_table=batch.page_table[:num_rows],
        cu_seqlens_q=batch.cu_seqlens_q[: num_rows + 1],
        seq_lens=batch.seq_lens[:num_rows],
        wanted=batch.wanted[:num_rows],
    )


def load(static: Batch, batch: Batch, size: int) -> None:
    """Writes a decode step on the CPU, and padding up to `size` rows, to tensors that stay."""
    num_rows, num_pages = batch.page_table.shape
    for name, value in PADDING.items():
        values = getattr(batch, name)
        if size > num_rows:
            values = F.pad(values, (0, size - num_rows), value=value)
        _send(values, getattr(static, name)[:size])
    _send(batch.page_table, static.page_table[:num_rows, :num_pages])


def _send(values: Tensor, to: Tensor) -> None:
    """Without waiting, where `to` is on a GPU."""
    to.copy_(values.pin_memory() if to.is_cuda else values, non_blocking=True)
