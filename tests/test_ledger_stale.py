"""A stale reference is refused, never taken for another request."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pdrt._C import FinishReason, Ledger, Outcome, Phase
from tests.ledger_driver import assert_clean

ME, OTHER = 1 << 8 | 0, 1 << 8 | 1
PROMPT = np.arange(6, dtype=np.int32)


def claim(ledger: Ledger, rank: int = 1, max_tokens: int = 4) -> tuple[int, int]:
    claimed = ledger.claim(rank, rank, PROMPT, max_tokens, b"")
    assert claimed is not None
    return claimed


def prefill(ledger: Ledger, me: int = ME, reason: FinishReason = FinishReason.NONE):
    """A slot whose whole prompt was read, and its holder."""
    holder = ledger.holder(me)
    slot, generation = claim(ledger)
    assert holder.admit(slot, generation) == Outcome.DONE
    row = (slot, generation, len(PROMPT), 5, -0.5, reason)
    assert holder.boundary(holder.launch(), [row]) == [True]
    return holder, slot, generation


def test_the_slot_is_used_again_with_the_next_generation(make_ledger) -> None:
    ledger = make_ledger(num_slots=1, sealed_bound=1)
    holder, slot, generation = prefill(ledger, reason=FinishReason.STOP)
    assert holder.finish(slot) == Outcome.DONE
    assert ledger.end(slot, generation)
    assert claim(ledger) == (slot, generation + 1)


@pytest.mark.parametrize("stale", [-1, 1])
def test_admit_and_mark_abort_refuse_another_generation(make_ledger, stale: int) -> None:
    ledger = make_ledger()
    slot, generation = claim(ledger)
    assert ledger.holder(ME).admit(slot, generation + stale) == Outcome.STALE
    assert not ledger.mark_abort(slot, generation + stale)
    word = ledger.word(slot)
    assert (word.phase, word.abort) == (Phase.QUEUED, False)


@pytest.mark.parametrize("stale", [-1, 1])
def test_take_refuses_another_generation(make_ledger, stale: int) -> None:
    ledger = make_ledger()
    holder, slot, generation = prefill(ledger)
    assert holder.seal(slot) == Outcome.DONE
    assert ledger.holder(OTHER).take(slot, generation + stale) == Outcome.STALE
    assert ledger.word(slot).phase == Phase.SEALED


@pytest.mark.parametrize("stale", [-1, 1])
def test_a_row_of_another_generation_does_not_count(make_ledger, stale: int) -> None:
    ledger = make_ledger()
    holder = ledger.holder(ME)
    slot, generation = claim(ledger)
    assert holder.admit(slot, generation) == Outcome.DONE
    row = (slot, generation + stale, len(PROMPT), 5, -0.5, FinishReason.NONE)
    assert holder.boundary(holder.launch(), [row]) == [False]
    assert ledger.info(slot).num_output_tokens == 0


@pytest.mark.parametrize("stale", [-1, 1])
def test_end_refuses_another_generation(make_ledger, stale: int) -> None:
    ledger = make_ledger()
    holder, slot, generation = prefill(ledger, reason=FinishReason.STOP)
    assert holder.finish(slot) == Outcome.DONE
    assert not ledger.end(slot, generation + stale)
    assert ledger.word(slot).phase == Phase.FINISHED


def test_a_requeued_slot_has_a_new_generation_and_the_old_message_is_refused(make_ledger) -> None:
    ledger = make_ledger()
    _, slot, generation = prefill(ledger)
    assert ledger.reap(ME) == Outcome.DONE
    assert ledger.holder(OTHER).admit(slot, generation) == Outcome.STALE
    assert ledger.holder(OTHER).admit(slot, generation + 1) == Outcome.DONE


@pytest.mark.parametrize(
    "op",
    [
        lambda holder, slot: holder.seal(slot),
        lambda holder, slot: holder.grow(slot, 7),
        lambda holder, slot: holder.let_go(slot),
        lambda holder, slot: holder.finish(slot),
        lambda holder, slot: holder.abort(slot),
    ],
    ids=["seal", "grow", "let_go", "finish", "abort"],
)
def test_another_holders_slot_is_refused(make_ledger, op: Callable[..., Outcome]) -> None:
    ledger = make_ledger()
    _, slot, generation = prefill(ledger)
    before = ledger.word(slot).phase, ledger.info(slot).num_pages
    assert ledger.mark_abort(slot, generation)
    assert op(ledger.holder(OTHER), slot) == Outcome.STALE
    assert op(ledger.holder(ME + 256), slot) == Outcome.STALE, "a new incarnation is another one"
    assert (ledger.word(slot).phase, ledger.info(slot).num_pages) == before


def test_what_the_client_left_goes_no_further(make_ledger) -> None:
    """Admit, seal, take and grow refuse a slot that is marked ABORT."""
    ledger = make_ledger(num_pages=12)
    queued = claim(ledger)
    assert ledger.mark_abort(*queued)
    assert ledger.holder(ME).admit(*queued) == Outcome.STALE
    holder, slot, generation = prefill(ledger)
    assert holder.seal(slot) == Outcome.DONE
    assert ledger.mark_abort(slot, generation)
    assert holder.take(slot, generation) == Outcome.STALE
    assert ledger.sweep() == 2
    assert ledger.word(slot).phase == Phase.EMPTY

    holder, slot, generation = prefill(ledger)
    assert ledger.mark_abort(slot, generation)
    assert holder.seal(slot) == Outcome.STALE
    assert ledger.word(slot).abort
    assert holder.abort(slot) == Outcome.DONE


def test_the_abort_mark_survives_every_change_of_the_word(make_ledger) -> None:
    ledger = make_ledger()
    holder, slot, generation = prefill(ledger)
    assert ledger.mark_abort(slot, generation) and ledger.mark_abort(slot, generation)
    assert holder.abort(slot) == Outcome.DONE
    word = ledger.word(slot)
    assert (word.phase, word.abort, word.generation) == (Phase.EMPTY, False, generation + 1)
    assert ledger.counters().aborted == 1


def test_a_finished_request_cannot_be_aborted_any_more(make_ledger) -> None:
    ledger = make_ledger()
    holder, slot, generation = prefill(ledger, reason=FinishReason.LENGTH)
    assert holder.finish(slot) == Outcome.DONE
    assert not ledger.mark_abort(slot, generation)


def test_a_result_after_the_last_token_does_not_count(make_ledger) -> None:
    """With two steps in flight the second was launched before the first one's EOS was known."""
    ledger = make_ledger()
    holder, slot, generation = prefill(ledger)
    assert holder.seal(slot) == holder.take(slot, generation) == Outcome.DONE
    assert holder.grow(slot, 8, speculative=True) == Outcome.DONE
    first, second = holder.launch(), holder.launch()
    stop, more = FinishReason.STOP, FinishReason.NONE
    assert holder.boundary(first, [(slot, generation, 7, 1, -0.5, stop)]) == [True]
    assert holder.boundary(second, [(slot, generation, 8, 2, -0.5, more)]) == [False]
    assert ledger.tokens(slot, 6, 8).tolist() == [5, 1]
    assert_clean(ledger)
