"""Turns a plan into the tensors of a step: token ids and page ids come from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from pdrt._C import Ledger
from pdrt.model.batch import Batch
from pdrt.sched.plan import Key, Plan

# Makes room for so many (tokens, rows, wanted logits, pages of the longest row).
MakeBlank = Callable[[int, int, int, int], Batch]


def blank_batch(num_tokens: int, num_rows: int, num_wanted: int, num_pages: int) -> Batch:
    """New tensors on the CPU that are still to be written."""

    def ints(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32)

    return Batch(
        input_ids=ints(num_tokens),
        positions=ints(num_tokens),
        slot_mapping=ints(num_tokens),
        page_table=ints(num_rows, num_pages),
        cu_seqlens_q=ints(num_rows + 1),
        seq_lens=ints(num_rows),
        wanted=torch.empty(num_wanted, dtype=torch.int64),
    )


def make_batch(
    plan: Plan,
    ledger: Ledger,
    num_wanted: Sequence[int],
    drawing: Mapping[Key, int],
    make_blank: MakeBlank = blank_batch,
) -> Batch:
    """The batch of a plan with at least one row, whose slots this worker holds.

    Args:
        num_wanted: of each row, how many of its last tokens are to have logits.
        drawing: of the step before, which of its draws each row has; for rows that are ahead.
        make_blank: gives the tensors that are written.
    """
    rows = [
        (row.slot, row.start, row.end, wanted, drawing[row.key] if row.is_ahead else -1)
        for row, wanted in zip(plan.rows, num_wanted, strict=True)
    ]
    longest = max(row.end for row in plan.rows)
    num_pages = -(-longest // ledger.page_size)
    batch = make_blank(plan.num_tokens, len(rows), sum(num_wanted), num_pages)
    ledger.write_batch(rows, batch)
    return batch
