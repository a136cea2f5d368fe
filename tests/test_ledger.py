"""Making, attaching and reading a ledger; a request's whole way through it."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from pdrt import _C
from pdrt._C import FinishReason, Ledger, Outcome, Phase
from tests.ledger_driver import Clients, Worker, new_pool, run_to_end

PREFILL, DECODE = 1 << 8 | 0, 1 << 8 | 1
PROMPT = np.array([7, 8, 9, 10, 11, 12], np.int32)


def test_a_request_goes_from_prefill_to_decode_without_moving_a_page(make_ledger) -> None:
    ledger = make_ledger()
    prefill, decode = ledger.holder(PREFILL), ledger.holder(DECODE)
    started = time.monotonic()
    slot, generation = ledger.claim(42, 1, PROMPT, 2, b"greedy")
    assert ledger.params(slot) == b"greedy"
    assert prefill.admit(slot, generation) == Outcome.DONE
    pages = ledger.page_table([slot])[0].tolist()
    row = (slot, generation, 6, 13, -0.25, FinishReason.NONE)
    assert prefill.boundary(prefill.launch(), [row]) == [True]
    assert prefill.seal(slot) == Outcome.DONE
    assert ledger.word(slot).holder == _C.NOBODY
    assert decode.take(slot, generation) == Outcome.DONE
    assert ledger.word(slot).holder == DECODE
    assert ledger.page_table([slot])[0].tolist() == pages
    assert ledger.info(slot).num_computed_tokens == 6
    row = (slot, generation, 7, 14, -0.5, FinishReason.LENGTH)
    assert decode.boundary(decode.launch(), [row]) == [True]
    assert decode.finish(slot) == Outcome.DONE
    assert ledger.tokens(slot, 4, 8).tolist() == [11, 12, 13, 14]
    assert ledger.logprobs(slot, 6, 8).tolist() == [-0.25, -0.5]
    times = ledger.times(slot)
    points = [times.queued, times.admitted, times.sealed, times.taken, times.finished]
    in_order = [started, *points, time.monotonic()]
    assert in_order == sorted(in_order)
    assert ledger.end(slot, generation)
    counters = ledger.counters()
    assert (counters.admitted, counters.handed_off, counters.finished) == (1, 1, 1)
    assert counters.handoff_bytes == 0


def test_info_tells_a_slots_numbers(make_ledger) -> None:
    ledger = make_ledger()
    slot, generation = ledger.claim(42, 3 << 32 | 5, PROMPT, 4, b"")
    assert ledger.holder(PREFILL).admit(slot, generation) == Outcome.DONE
    info = ledger.info(slot)
    assert (info.request_id, info.rank) == (42, 3 << 32 | 5)
    assert (info.num_prompt_tokens, info.num_output_tokens, info.max_tokens) == (6, 0, 4)
    assert (info.num_computed_tokens, info.num_cached_tokens, info.goal) == (0, 0, 6)
    assert (info.num_pages, info.finish_reason) == (2, FinishReason.NONE)


def test_times_are_zero_until_a_point_is_passed(make_ledger) -> None:
    ledger = make_ledger()
    slot, _ = ledger.claim(1, 1, PROMPT, 4, b"")
    times = ledger.times(slot)
    assert times.queued > 0.0
    assert (times.admitted, times.sealed, times.taken, times.finished) == (0.0, 0.0, 0.0, 0.0)


def test_a_long_prompt_is_read_in_chunks_that_fill_several_pages(make_ledger) -> None:
    ledger = make_ledger(page_size=2)
    holder = ledger.holder(PREFILL)
    slot, generation = ledger.claim(1, 1, np.arange(11, dtype=np.int32), 4, b"")
    assert holder.admit(slot, generation) == Outcome.DONE
    for upto, token in ((5, -1), (10, -1), (11, 3)):
        row = (slot, generation, upto, token, -0.5, FinishReason.NONE)
        assert holder.boundary(holder.launch(), [row]) == [True]
    assert holder.seal(slot) == Outcome.DONE


def test_page_tables_are_padded_with_the_scratch_page(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(PREFILL)
    lengths = (9, 2)
    for rank, length in enumerate(lengths):
        prompt = np.full(length, rank, np.int32)
        assert holder.admit(*ledger.claim(rank, rank, prompt, 4, b"")) == Outcome.DONE
    table = ledger.page_table([1, 0])
    assert table.dtype == np.int32 and table.shape == (2, 3)
    assert table[0, 1:].tolist() == [0, 0]
    assert len({*table[1].tolist(), table[0, 0]}) == 4
    assert ledger.page_table([]).shape == (0, 0)


def test_claims_are_refused_when_every_slot_is_taken(make_ledger) -> None:
    ledger = make_ledger(num_slots=2)
    assert ledger.claim(1, 1, PROMPT, 4, b"") == (0, 1)
    assert ledger.claim(2, 2, PROMPT, 4, b"") == (1, 1)
    assert ledger.claim(3, 3, PROMPT, 4, b"") is None


def test_workers_show_progress_and_steps(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(DECODE)
    for _ in range(3):
        holder.beat()
    assert (holder.launch(), holder.launch()) == (1, 2)
    assert ledger.progress(1) == 3 and ledger.steps(1) == 2
    assert ledger.progress(0) == 0 and ledger.steps(0) == 0
    assert (holder.instance, holder.launched, holder.read) == (DECODE, 2, 0)


def test_two_mappings_show_the_same_ledger(make_ledger) -> None:
    ledger = make_ledger()
    twin = Ledger.attach(ledger.fd)
    assert twin.fd != ledger.fd and twin.num_bytes == ledger.num_bytes
    sizes = ("num_pages", "page_size", "num_slots", "max_model_len", "sealed_bound")
    for name in (*sizes, "max_pages_per_slot"):
        assert getattr(twin, name) == getattr(ledger, name)
    slot, generation = ledger.claim(1, 1, PROMPT, 4, b"x")
    assert twin.tokens(slot, 0, 6).tolist() == PROMPT.tolist()
    assert twin.holder(PREFILL).admit(slot, generation) == Outcome.DONE
    assert ledger.word(slot).phase == Phase.PREFILLING


def test_many_requests_come_through_a_small_pool(make_ledger) -> None:
    ledger = make_ledger(num_pages=6, num_slots=6, sealed_bound=2)
    clients, pool = Clients(_C, ledger), new_pool(ledger)
    workers = [Worker(_C, ledger, 1 << 8 | i, pool) for i in range(2)]
    for round in range(10):
        for i in range(6):
            assert clients.submit([1 + i % 3] * (1 + i), 4 + round % 3) is not None
        run_to_end(clients, workers)
    assert ledger.counters().preempted > 0 and ledger.counters().evicted > 0


def test_token_regions_cost_memory_only_when_written(make_ledger) -> None:
    ledger = make_ledger(num_slots=256, max_model_len=65536, num_pages=16384)
    assert ledger.num_bytes > 128 << 20
    assert os.fstat(ledger.fd).st_blocks * 512 < 8 << 20


# -- errors name what was wrong, the value, and what to do -----------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_pages": 3}, r"num_pages is 3, .* needs 4 pages of 4 tokens; give num_pages 4"),
        ({"page_size": 0}, r"page_size is 0; give 1 to"),
        ({"num_slots": 0}, r"num_slots is 0; give 1 to"),
        ({"max_model_len": 1}, r"max_model_len is 1; give 2 to"),
        ({"sealed_bound": 5}, r"sealed_bound is 5; give 1 to 4"),
        ({"lock_timeout_ms": 0}, r"lock_timeout_ms is 0; give 1 to"),
    ],
)
def test_impossible_sizes_are_refused(make_ledger, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ledger(**sizes)


def test_a_file_that_is_no_ledger_is_refused(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    with path.open("rb") as file, pytest.raises(ValueError, match="is not a ledger"):
        Ledger.attach(file.fileno())
    with pytest.raises(OSError, match="descriptor 9999"):
        Ledger.attach(9999)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "params", "message"),
    [
        (PROMPT[:0], 4, b"", "the prompt is empty"),
        (PROMPT, 0, b"", "max_tokens is 0"),
        (PROMPT, 11, b"", "make 17, more than max_model_len 16"),
        (PROMPT, 4, b"x" * 8193, "params has 8193 bytes; at most 8192 fit"),
        (PROMPT.reshape(2, 3), 4, b"", "prompt has 2 dimensions"),
    ],
)
def test_an_impossible_request_is_refused(make_ledger, prompt, max_tokens, params, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_ledger().claim(1, 1, prompt, max_tokens, params)


def test_token_ids_of_another_type_are_not_converted(make_ledger) -> None:
    with pytest.raises(TypeError):
        make_ledger().claim(1, 1, PROMPT.astype(np.int64), 4, b"")


def test_numbers_out_of_range_are_refused(make_ledger) -> None:
    ledger = make_ledger()
    slot, _ = ledger.claim(1, 1, PROMPT, 4, b"")
    with pytest.raises(ValueError, match="slot is 4; the ledger has 4"):
        ledger.word(4)
    with pytest.raises(ValueError, match="start 0 and end 7 are not a range of 6 tokens"):
        ledger.tokens(slot, 0, 7)
    with pytest.raises(ValueError, match="range of 6 tokens"):
        ledger.logprobs(slot, 6, 7)
    with pytest.raises(ValueError, match="worker is 256"):
        ledger.progress(256)
    for instance in (_C.NOBODY, _C.KEEPER, 255, 1 << 24):
        with pytest.raises(ValueError, match=f"instance is {instance}"):
            ledger.holder(instance)
        with pytest.raises(ValueError, match=f"instance is {instance}"):
            ledger.reap(instance)


def test_steps_are_read_in_launch_order(make_ledger) -> None:
    holder = make_ledger().holder(PREFILL)
    with pytest.raises(ValueError, match="step is 1; .* read step 0 and launched step 0"):
        holder.boundary(1, [])
    holder.launch(), holder.launch()
    with pytest.raises(ValueError, match="step is 2"):
        holder.boundary(2, [])
    assert holder.boundary(1, []) == holder.boundary(2, []) == []


@pytest.mark.parametrize(
    ("upto", "token", "reason", "message"),
    [
        (0, -1, "NONE", "had 0 tokens computed; a step brings it to at most 6, not to 0"),
        (7, 5, "NONE", "at most 6, not to 7"),
        (6, -1, "NONE", "token is -1, but a token comes with the last of them"),
        (4, 5, "NONE", "token is 5, but a token comes with the last of them"),
        (6, -2, "NONE", "token is -2"),
        (4, -1, "STOP", "finished by a row without a token"),
        (6, 5, "NONE", "the row must carry a finish reason"),
    ],
)
def test_an_impossible_row_is_refused(make_ledger, upto, token, reason, message) -> None:
    ledger = make_ledger()
    holder = ledger.holder(PREFILL)
    slot, generation = ledger.claim(1, 1, PROMPT, 1, b"")
    assert holder.admit(slot, generation) == Outcome.DONE
    step = holder.launch()
    row = (slot, generation, upto, token, 0.0, getattr(FinishReason, reason))
    with pytest.raises(ValueError, match=message):
        holder.boundary(step, [row])
    assert holder.read == 0 and ledger.info(slot).num_computed_tokens == 0


def test_a_slot_has_one_row_in_a_step(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(PREFILL)
    slot, generation = ledger.claim(1, 1, PROMPT, 1, b"")
    row = (slot, generation, 6, 1, 0.0, FinishReason.LENGTH)
    with pytest.raises(ValueError, match="slot 0 has two rows in step 1"):
        holder.boundary(holder.launch(), [row, row])


def test_growth_ends_with_max_tokens(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(PREFILL)
    slot, generation = ledger.claim(1, 1, PROMPT, 4, b"")
    assert holder.admit(slot, generation) == Outcome.DONE
    with pytest.raises(ValueError, match="grow to 10 tokens; its prompt and max_tokens end at 9"):
        holder.grow(slot, 10)


def scores(count: int, num_top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.arange(count * num_top, dtype=np.int32).reshape(count, num_top)
    return np.arange(count, dtype=np.float32), ids, -ids.astype(np.float32)


def test_scores_lie_beside_the_tokens_by_position(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(PREFILL)
    slot, generation = ledger.claim(1, 1, PROMPT, 4, b"")
    assert not holder.score(slot, generation, 1, *scores(2, 3)), "it is not held yet"
    assert holder.admit(slot, generation) == Outcome.DONE
    assert holder.score(slot, generation, 1, *scores(5, 3))
    assert holder.score(slot, generation, 6, *scores(1, 2))
    assert not holder.score(slot, generation + 1, 1, *scores(1, 1))
    assert ledger.logprobs(slot, 1, 6).tolist() == [0, 1, 2, 3, 4]
    ids, logprobs = ledger.top_logprobs(slot, 2, 4, 3)
    assert ids.tolist() == [[3, 4, 5], [6, 7, 8]] and (logprobs == -ids).all()
    row = (slot, generation, 6, 13, -0.25, FinishReason.NONE)
    assert holder.boundary(holder.launch(), [row]) == [True]
    assert ledger.top_logprobs(slot, 6, 7, 2)[0].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("start", "count", "num_top", "message"),
    [
        (0, 1, 1, r"scores for \[0, 1\) are none of theirs"),
        (5, 3, 1, r"scores for \[5, 8\) are none of theirs"),
        (1, 1, 21, "scores have 21 rivals a token; at most 20 fit"),
    ],
)
def test_scores_that_fit_no_token_are_refused(
    make_ledger, start: int, count: int, num_top: int, message: str
) -> None:
    ledger = make_ledger()
    holder = ledger.holder(PREFILL)
    slot, generation = ledger.claim(1, 1, PROMPT, 4, b"")
    assert holder.admit(slot, generation) == Outcome.DONE
    with pytest.raises(ValueError, match=message):
        holder.score(slot, generation, start, *scores(count, num_top))
    with pytest.raises(ValueError, match="start 5 and end 7 are not a range of 6 tokens"):
        ledger.top_logprobs(slot, 5, 7, 1)
