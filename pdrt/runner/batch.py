"""Turns a plan into the tensors of a step: token ids and page ids come from the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from pdrt._C import Ledger
from pdrt.model.batch import Batch
from pdrt.sched.plan import Key, Plan, Row

Ints = NDArray[np.int32]


def make_batch(
    plan: Plan, ledger: Ledger, num_wanted: Sequence[int], drawing: Mapping[Key, int]
) -> Batch:
    """The batch of a plan with at least one row, whose slots this worker holds.

    Args:
        num_wanted: of each row, how many of its last tokens are to have logits.
        drawing: of the step before, which of its draws each row has; for rows that are ahead.
    """
    rows = plan.rows
    page_table = ledger.page_table([row.slot for row in rows])
    positions = [np.arange(row.start, row.end, dtype=np.int32) for row in rows]
    places = [
        slots(pages, at, ledger.page_size) for pages, at in zip(page_table, positions, strict=True)
    ]
    ends = list(accumulate(row.num_tokens for row in rows))
    return Batch(
        input_ids=_join([_input_ids(row, ledger, drawing) for row in rows]),
        positions=_join(positions),
        slot_mapping=_join(places),
        page_table=torch.from_numpy(page_table),
        cu_seqlens_q=torch.tensor([0, *ends], dtype=torch.int32),
        seq_lens=torch.tensor([row.end for row in rows], dtype=torch.int32),
        wanted=torch.from_numpy(
            np.concatenate(
                [np.arange(end - n, end) for end, n in zip(ends, num_wanted, strict=True)]
            )
        ),
    )


def _input_ids(row: Row, ledger: Ledger, drawing: Mapping[Key, int]) -> Ints:
    """[row.num_tokens] int32; ~i for the i-th token that the step before draws."""
    if row.is_ahead:
        return np.array([~drawing[row.key]], np.int32)
    return ledger.tokens(row.slot, row.start, row.end)


def slots(pages: Ints, positions: Ints, page_size: int) -> Ints:
    """Where the KV of each position goes: page_id * page_size + offset, [n] int32."""
    return pages[positions // page_size] * np.int32(page_size) + positions % page_size


def _join(parts: list[Ints]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts))
