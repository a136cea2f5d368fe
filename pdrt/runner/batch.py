"""Turns a plan into the tensors of a step: token ids and page ids come from the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    starts = np.array([row.start for row in rows], np.int32)
    seq_lens = np.array([row.end for row in rows], np.int32)
    page_table = ledger.page_table([row.slot for row in rows])
    owners, positions = _runs(starts, seq_lens)
    pages = page_table[owners, positions // ledger.page_size]
    ends = np.cumsum(seq_lens - starts, dtype=np.int32)
    return Batch(
        input_ids=torch.from_numpy(
            np.concatenate([_input_ids(row, ledger, drawing) for row in rows])
        ),
        positions=torch.from_numpy(positions),
        slot_mapping=torch.from_numpy(
            pages * np.int32(ledger.page_size) + positions % ledger.page_size
        ),
        page_table=torch.from_numpy(page_table),
        cu_seqlens_q=torch.from_numpy(np.concatenate([np.zeros(1, np.int32), ends])),
        seq_lens=torch.from_numpy(seq_lens),
        wanted=torch.from_numpy(
            _runs(ends - np.array(num_wanted, np.int32), ends)[1].astype(np.int64)
        ),
    )


def _runs(starts: Ints, ends: Ints) -> tuple[NDArray[np.intp], Ints]:
    """The numbers from each start to each end, one run after the other, and whose each is."""
    counts = ends - starts
    if (counts == 1).all():  # a step of decode rows
        return np.arange(len(counts)), starts
    owners = np.repeat(np.arange(len(counts)), counts)
    shifts = ends - np.cumsum(counts, dtype=np.int32)  # from a place in the result to its number
    return owners, np.arange(len(owners), dtype=np.int32) + shifts[owners]


def _input_ids(row: Row, ledger: Ledger, drawing: Mapping[Key, int]) -> Ints:
    """[row.num_tokens] int32; ~i for the i-th token that the step before draws."""
    if row.is_ahead:
        return np.array([~drawing[row.key]], np.int32)
    return ledger.tokens(row.slot, row.start, row.end)
