"""A step's tensors from the ledger, in one call: whole, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from pdrt._C import FinishReason, Ledger, Outcome
from pdrt.runner.batch import blank_batch

INSTANCE = 1 << 8
PROMPTS = [range(10, 19), range(20, 22)]  # three pages of 4, with the first output token, and one


@pytest.fixture
def ledger(make_ledger: Callable[..., Ledger]) -> Ledger:
    """With a request of 9 tokens in slot 0 and one of 2 in slot 1, each with pages for one more."""
    ledger = make_ledger()
    holder = ledger.holder(INSTANCE)
    for rank, prompt in enumerate(PROMPTS):
        claimed = ledger.claim(rank, rank, np.array(prompt, np.int32), 4, b"")
        assert claimed is not None
        assert holder.admit(*claimed) is Outcome.DONE
    return ledger


def test_rows_are_written_one_after_the_other_and_pages_padded_with_the_scratch_page(
    ledger: Ledger,
) -> None:
    batch = blank_batch(5, 2, 2, 4)
    ledger.write_batch([(1, 0, 2, 1, -1), (0, 5, 8, 1, -1)], batch)
    (one, *_), (two, three, _) = ledger.page_table([1, 0]).tolist()
    assert batch.input_ids.tolist() == [20, 21, 15, 16, 17]
    assert batch.positions.tolist() == [0, 1, 5, 6, 7]
    assert batch.page_table.tolist() == [[one, 0, 0, 0], [two, three, 0, 0]]
    places = [4 * one, 4 * one + 1, *(4 * three + i for i in (1, 2, 3))]
    assert batch.slot_mapping.tolist() == places
    assert batch.cu_seqlens_q.tolist() == [0, 2, 5]
    assert batch.seq_lens.tolist() == [2, 8]
    assert batch.wanted.tolist() == [1, 4]


def test_a_token_that_only_the_device_knows_is_named_by_its_draw(ledger: Ledger) -> None:
    """Its slot has the page, and not the token yet."""
    batch = blank_batch(2, 2, 2, 3)
    ledger.write_batch([(0, 9, 10, 1, 5), (1, 1, 2, 1, -1)], batch)
    assert batch.input_ids.tolist() == [~5, 21]
    assert batch.positions.tolist() == [9, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((4, 0, 1, 1, -1), "slot is 4"),
        ((0, 3, 3, 0, -1), r"its row is \[3, 3\)"),
        ((0, 0, 10, 1, -1), r"slot 0 has 9 tokens; its row is \[0, 10\)$"),
        ((0, 0, 13, 1, -1), r"slot 0 has pages for 12 tokens; its row is \[0, 13\)"),
        ((0, 8, 10, 1, 0), "only one can be drawn"),
        ((0, 6, 9, 4, -1), "a row of 3 tokens and wants the logits of 4"),
    ],
)
def test_a_row_that_cannot_be_is_refused(
    ledger: Ledger, row: tuple[int, int, int, int, int], message: str
) -> None:
    _, start, end, wanted, _ = row
    with pytest.raises(ValueError, match=message):
        ledger.write_batch([row], blank_batch(end - start, 1, wanted, 4))


ROWS: Sequence[tuple[int, int, int, int, int]] = [(0, 5, 8, 1, -1)]


@pytest.mark.parametrize(
    "name", ["input_ids", "positions", "slot_mapping", "cu_seqlens_q", "seq_lens", "wanted"]
)
def test_a_tensor_of_another_size_is_named_and_nothing_is_written(
    ledger: Ledger, name: str
) -> None:
    batch = blank_batch(3, 1, 1, 2)
    batch.page_table.fill_(-7)
    longer = torch.zeros(len(getattr(batch, name)) + 1, dtype=getattr(batch, name).dtype)
    with pytest.raises(ValueError, match=rf"{name} has shape \({len(longer)},\), expected"):
        ledger.write_batch(ROWS, replace(batch, **{name: longer}))
    assert batch.page_table.tolist() == [[-7, -7]]


def test_a_table_that_is_too_narrow_or_whose_rows_lie_apart_is_named(ledger: Ledger) -> None:
    batch = blank_batch(3, 1, 1, 1)
    with pytest.raises(ValueError, match="page_table has 1 columns; the longest row has 2 pages"):
        ledger.write_batch(ROWS, batch)
    rows = [*ROWS, (1, 0, 2, 1, -1)]
    apart = torch.zeros(2, 9, dtype=torch.int32)[:, :2]
    with pytest.raises(ValueError, match="page_table .* expected a contiguous tensor"):
        ledger.write_batch(rows, replace(blank_batch(5, 2, 2, 2), page_table=apart))


def test_ready_is_what_a_step_may_go_on_with(ledger: Ledger) -> None:
    holder, other = ledger.holder(INSTANCE), ledger.holder(INSTANCE + 1)
    assert holder.ready(0, 1) == 0
    assert holder.ready(0, 2) is other.ready(0, 1) is None
    row = (0, 1, 4, -1, 0.0, FinishReason.NONE)
    assert holder.boundary(holder.launch(), [row]) == [True]
    assert holder.ready(0, 1) == 4
    last = (0, 1, 9, 7, -0.5, FinishReason.STOP)
    assert holder.boundary(holder.launch(), [last]) == [True]
    assert holder.ready(0, 1) is None  # its last token was read
    assert ledger.mark_abort(1, 1)
    assert holder.ready(1, 1) is None
    with pytest.raises(ValueError, match="slot is 4"):
        holder.ready(4, 1)
