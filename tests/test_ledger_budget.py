"""Who gets pages, who waits, who gives back. Pages of 4 tokens, ledgers small enough to draw."""

from __future__ import annotations

import numpy as np

from pdrt._C import FinishReason, Holder, Ledger, Outcome, Phase
from tests.ledger_driver import assert_clean

ME, OTHER = 1 << 8 | 0, 1 << 8 | 1
NONE = FinishReason.NONE


def claim(ledger: Ledger, length: int, max_tokens: int, rank: int, first_token: int = 0) -> int:
    """Prompts with different first tokens share no prefix."""
    prompt = np.arange(first_token, first_token + length, dtype=np.int32)
    claimed = ledger.claim(rank, rank, prompt, max_tokens, b"")
    assert claimed is not None
    return claimed[0]


def admit(holder: Holder, ledger: Ledger, slot: int) -> Outcome:
    return holder.admit(slot, ledger.word(slot).generation)


def read_token(holder: Holder, ledger: Ledger, slot: int, reason: FinishReason = NONE) -> None:
    """One step that computes all of the slot's tokens and brings the next one."""
    info = ledger.info(slot)
    upto = info.num_prompt_tokens + info.num_output_tokens
    row = (slot, ledger.word(slot).generation, upto, 9, -0.5, reason)
    assert holder.boundary(holder.launch(), [row]) == [True]


def decode(holder: Holder, ledger: Ledger, slot: int, prefiller: Holder | None = None) -> None:
    """Brings a QUEUED slot to DECODING."""
    assert admit(prefiller or holder, ledger, slot) == Outcome.DONE
    prefilled(holder, ledger, slot, prefiller)


def prefilled(holder: Holder, ledger: Ledger, slot: int, prefiller: Holder | None = None) -> None:
    read_token(prefiller or holder, ledger, slot)
    assert (prefiller or holder).seal(slot) == Outcome.DONE
    assert holder.take(slot, ledger.word(slot).generation) == Outcome.DONE


def test_admission_takes_pages_for_the_prompt_and_the_first_token(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(ME)
    slot = claim(ledger, length=4, max_tokens=4, rank=1)
    assert admit(holder, ledger, slot) == Outcome.DONE
    assert ledger.info(slot).num_pages == 2  # 5 tokens


def test_the_last_token_of_all_needs_no_page(make_ledger) -> None:
    ledger = make_ledger()
    slot = claim(ledger, length=4, max_tokens=1, rank=1)
    assert admit(ledger.holder(ME), ledger, slot) == Outcome.DONE
    assert ledger.info(slot).num_pages == 1  # its one output token is never fed back


def test_admission_does_not_pass_an_older_request(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(ME)
    old = claim(ledger, length=4, max_tokens=4, rank=1)
    young = claim(ledger, length=4, max_tokens=4, rank=2)
    assert admit(holder, ledger, young) == Outcome.NOT_OLDEST
    assert ledger.mark_abort(old, 1), "one whose client left is no obstacle"
    assert admit(holder, ledger, young) == Outcome.DONE
    assert ledger.sweep() == 1


def test_a_higher_priority_is_a_smaller_rank(make_ledger) -> None:
    ledger = make_ledger()
    later = claim(ledger, length=4, max_tokens=4, rank=1 << 32 | 1)
    sooner = claim(ledger, length=4, max_tokens=4, rank=2)
    assert admit(ledger.holder(ME), ledger, later) == Outcome.NOT_OLDEST
    assert admit(ledger.holder(ME), ledger, sooner) == Outcome.DONE


def test_admission_leaves_a_page_for_each_decoding_request(make_ledger) -> None:
    ledger = make_ledger(num_pages=4)
    holder = ledger.holder(ME)
    decode(holder, ledger, claim(ledger, length=2, max_tokens=10, rank=1))
    late = claim(ledger, length=10, max_tokens=6, rank=2, first_token=50)
    assert assert_clean(ledger).free == 3
    assert admit(holder, ledger, late) == Outcome.NO_PAGES  # 3 pages and the watermark of 1
    assert ledger.word(late).phase == Phase.QUEUED


def test_seal_is_refused_beyond_the_bound(make_ledger) -> None:
    ledger = make_ledger(sealed_bound=1)
    holder = ledger.holder(ME)
    slots = [claim(ledger, length=3, max_tokens=4, rank=r, first_token=10 * r) for r in (1, 2)]
    for slot in slots:
        assert admit(holder, ledger, slot) == Outcome.DONE
        read_token(holder, ledger, slot)
    assert [holder.seal(slot) for slot in slots] == [Outcome.DONE, Outcome.FULL]
    assert holder.take(slots[0], 1) == Outcome.DONE
    assert holder.seal(slots[1]) == Outcome.DONE


def test_seal_waits_for_the_first_token(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(ME)
    slot = claim(ledger, length=6, max_tokens=4, rank=1)
    assert admit(holder, ledger, slot) == Outcome.DONE
    assert holder.boundary(holder.launch(), [(slot, 1, 4, -1, 0.0, NONE)]) == [True]
    assert holder.seal(slot) == Outcome.STALE


def full_house(make_ledger, owner_of_young: int, phase: Phase) -> tuple[Ledger, Holder, int, int]:
    """Four pages: two of an old request that decodes here and wants a third, two of a young one."""
    ledger = make_ledger(num_pages=4)
    me, other = ledger.holder(ME), ledger.holder(owner_of_young)
    old = claim(ledger, length=6, max_tokens=6, rank=1)
    young = claim(ledger, length=5, max_tokens=3, rank=2, first_token=50)
    assert admit(me, ledger, old) == admit(other, ledger, young) == Outcome.DONE
    prefilled(me, ledger, old)
    if phase == Phase.PREFILLING:
        return ledger, me, old, young
    read_token(other, ledger, young)
    assert other.seal(young) == Outcome.DONE
    if phase == Phase.DECODING:
        assert other.take(young, 1) == Outcome.DONE
    assert assert_clean(ledger).free == 0
    return ledger, me, old, young


def test_a_sealed_young_request_gives_its_pages_back(make_ledger) -> None:
    ledger, me, old, young = full_house(make_ledger, OTHER, Phase.SEALED)
    assert me.grow(old, 9) == Outcome.PREEMPTED
    word = ledger.word(young)
    assert (word.phase, word.generation) == (Phase.QUEUED, 2)
    assert ledger.tokens(young, 5, 6).tolist() == [9], "its output stays for the re-entry"
    assert me.grow(old, 9) == Outcome.DONE


def test_a_young_request_held_elsewhere_is_marked_and_lets_go(make_ledger) -> None:
    ledger, me, old, young = full_house(make_ledger, OTHER, Phase.DECODING)
    holder = ledger.holder(OTHER)
    assert me.grow(old, 9) == Outcome.PREEMPTED
    assert ledger.word(young).victim
    assert me.grow(old, 9) == Outcome.NO_PAGES, "it was asked already"
    assert holder.let_go(young) == Outcome.DONE
    assert me.grow(old, 9) == Outcome.DONE


def test_the_oldest_keeps_its_pages_although_it_was_marked(make_ledger) -> None:
    ledger, me, old, young = full_house(make_ledger, OTHER, Phase.DECODING)
    assert me.grow(old, 9) == Outcome.PREEMPTED
    assert ledger.mark_abort(old, 1) and me.abort(old) == Outcome.DONE
    assert ledger.holder(OTHER).let_go(young) == Outcome.STALE
    word = ledger.word(young)
    assert (word.phase, word.victim) == (Phase.DECODING, False)


def test_the_youngest_itself_goes_back_to_the_queue(make_ledger) -> None:
    ledger, me, old, young = full_house(make_ledger, ME, Phase.DECODING)
    assert me.grow(young, 7) == Outcome.DONE, "it has room for 8 tokens"
    decoded = ledger.info(old).num_pages
    assert me.grow(old, 9) == Outcome.PREEMPTED
    assert ledger.word(young).phase == Phase.QUEUED
    assert ledger.info(old).num_pages == decoded, "the caller tries again"


def test_nothing_is_taken_from_others_for_a_speculative_step(make_ledger) -> None:
    ledger, me, old, young = full_house(make_ledger, OTHER, Phase.SEALED)
    assert me.grow(old, 9, speculative=True) == Outcome.NO_PAGES
    assert ledger.word(young).phase == Phase.SEALED


def test_the_only_request_is_never_preempted_for_itself(make_ledger) -> None:
    """The smallest legal pool holds one request of full length."""
    ledger = make_ledger(num_pages=4, max_model_len=16)
    holder = ledger.holder(ME)
    slot = claim(ledger, length=3, max_tokens=13, rank=1)
    decode(holder, ledger, slot)
    for num_tokens in range(4, 16):
        assert holder.grow(slot, num_tokens) == Outcome.DONE
        last = num_tokens == 15
        read_token(holder, ledger, slot, FinishReason.LENGTH if last else NONE)
    assert holder.finish(slot) == Outcome.DONE


def test_a_page_that_a_step_may_still_write_is_not_free(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(ME)
    slot = claim(ledger, length=6, max_tokens=4, rank=1)
    assert admit(holder, ledger, slot) == Outcome.DONE
    first, second = holder.launch(), holder.launch()
    assert ledger.mark_abort(slot, 1) and holder.abort(slot) == Outcome.DONE
    assert assert_clean(ledger).quarantined == 2
    assert holder.boundary(first, [(slot, 1, 4, -1, 0.0, NONE)]) == [False]
    assert assert_clean(ledger).quarantined == 2, "the second step may still write them"
    assert holder.boundary(second, []) == []
    assert assert_clean(ledger).free == ledger.num_pages


def test_reaping_frees_what_a_dead_worker_might_still_have_written(make_ledger) -> None:
    """Also when it held no slot any more, and nobody else's quarantine with it."""
    ledger = make_ledger()
    holders = ledger.holder(ME), ledger.holder(OTHER)
    for rank, holder in enumerate(holders):
        slot = claim(ledger, length=6, max_tokens=4, rank=rank, first_token=50 * rank)
        assert admit(holder, ledger, slot) == Outcome.DONE
        holder.launch()
        assert (
            ledger.mark_abort(slot, ledger.word(slot).generation)
            and holder.abort(slot) == Outcome.DONE
        )
    assert assert_clean(ledger).quarantined == 4
    assert ledger.reap(ME) == Outcome.DONE
    assert assert_clean(ledger).quarantined == 2
    assert holders[1].boundary(1, []) == []
    assert assert_clean(ledger).free == ledger.num_pages


def test_an_error_ends_the_request_and_publishes_nothing(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(ME)
    slot = claim(ledger, length=6, max_tokens=4, rank=1)
    assert admit(holder, ledger, slot) == Outcome.DONE
    assert holder.boundary(holder.launch(), [(slot, 1, 6, -1, 0.0, FinishReason.ERROR)]) == [True]
    assert holder.finish(slot) == Outcome.DONE
    assert ledger.word(slot).phase == Phase.FINISHED
    assert ledger.info(slot).finish_reason == FinishReason.ERROR
    assert assert_clean(ledger).free == ledger.num_pages, "nothing is cached"
