"""The prefix cache: what is hit, what is never hit, and what is dropped first."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pdrt import _C, _C_failpoints
from pdrt._C import FinishReason, Ledger, Outcome
from tests.ledger_driver import Clients, Worker, assert_clean, new_pool, run_to_end

ROOT = Path(__file__).resolve().parent.parent
ME = 1 << 8


def run(ledger: Ledger, prompt: list[int], max_tokens: int = 1) -> None:
    """One request from claim to end; its full pages stay cached."""
    clients = Clients(_C, ledger)
    assert clients.submit(prompt, max_tokens) is not None
    incarnation = ledger.counters().admitted + 1
    run_to_end(clients, [Worker(_C, ledger, incarnation << 8, new_pool(ledger))])


def hits(ledger: Ledger, prompt: list[int], max_tokens: int = 1) -> int:
    """Tokens that an admission finds; the request is then thrown away."""
    holder = ledger.holder(60_000 << 8)
    slot, generation = ledger.claim(0, 0, np.array(prompt, np.int32), max_tokens, b"")
    assert holder.admit(slot, generation) == Outcome.DONE
    found = ledger.info(slot).num_cached_tokens
    assert ledger.mark_abort(slot, generation) and holder.abort(slot) == Outcome.DONE
    return found


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 8),
        ([1, 2, 3, 4, 5, 6, 7, 8], 4),  # the last token is always computed
        ([1, 2, 3, 4, 5, 6, 7, 0, 9], 4),
        ([1, 2, 3, 4, 5], 4),
        ([1, 2, 3, 4], 0),
        ([5, 6, 7, 8, 5], 0),  # the second page under another parent
    ],
)
def test_a_hit_covers_full_pages_of_an_equal_prefix(make_ledger, prompt, found) -> None:
    ledger = make_ledger()
    run(ledger, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert hits(ledger, prompt) == found


def test_pages_that_decode_filled_are_hit_too(make_ledger) -> None:
    ledger = make_ledger()
    clients = Clients(_C, ledger)
    assert clients.submit([1, 2, 3], 10) is not None
    run_to_end(clients, [Worker(_C, ledger, ME, new_pool(ledger))])
    chat = [1, 2, 3] + clients.requests[0].output
    full = (len(chat) - 1) // 4 * 4
    assert full > 4
    assert hits(ledger, chat + [5], max_tokens=1) == full


def test_two_requests_read_one_page_and_it_counts_once(make_ledger) -> None:
    ledger = make_ledger()
    holder = ledger.holder(ME)
    prompt = np.arange(9, dtype=np.int32)
    slot, generation = ledger.claim(1, 1, prompt, 2, b"")
    assert holder.admit(slot, generation) == Outcome.DONE
    row = (slot, generation, 9, 1, -0.5, FinishReason.NONE)
    assert holder.boundary(holder.launch(), [row]) == [True]
    twin, generation = ledger.claim(2, 2, prompt, 2, b"")
    assert holder.admit(twin, generation) == Outcome.DONE
    table = ledger.page_table([slot, twin])
    assert (table[0] == table[1]).tolist() == [True, True, False]
    counts = assert_clean(ledger)
    assert (counts.prefilling, counts.free) == (4, 4)
    assert ledger.counters().prefix_queried_tokens == 18
    assert ledger.counters().prefix_hit_tokens == 8


def test_equal_pages_are_indexed_once(make_ledger) -> None:
    """Two that computed the same prefix side by side: the second copy is no cached page later."""
    ledger = make_ledger()
    holder = ledger.holder(ME)
    prompt = np.arange(4, dtype=np.int32)
    slots = [ledger.claim(i, i, prompt, 1, b"") for i in range(2)]
    for slot, generation in slots:
        assert holder.admit(slot, generation) == Outcome.DONE
    rows = [(s, g, 4, 1, -0.5, FinishReason.LENGTH) for s, g in slots]
    assert holder.boundary(holder.launch(), rows) == [True, True]
    for slot, _ in slots:
        assert holder.finish(slot) == Outcome.DONE
    counts = assert_clean(ledger)
    assert (counts.cached, counts.free) == (1, 7)


class Bench:
    """Requests of one instance, with pages of 4 tokens; what is copied is written down."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.holder = ledger, ledger.holder(ME)
        self.copies: list[tuple[int, int, int]] = []

    def admit(self, prompt: list[int], *, copied: bool = True, reuse: bool = True) -> int:
        """The slot of a new request, admitted."""
        number = self.ledger.counters().admitted
        tokens = np.array(prompt, np.int32)
        slot, generation = self.ledger.claim(number, number, tokens, 4, b"", reuse=reuse)

        def copy(source: int, destination: int, num_tokens: int) -> bool:
            self.copies.append((source, destination, num_tokens))
            return copied

        assert self.holder.admit(slot, generation, copy) == Outcome.DONE
        return slot

    def compute(self, slot: int, num_tokens: int, token: int = -1) -> None:
        generation = self.ledger.word(slot).generation
        row = (slot, generation, num_tokens, token, -0.5, FinishReason.NONE)
        assert self.holder.boundary(self.holder.launch(), [row]) == [True]

    def num_computed(self, slot: int) -> int:
        info = self.ledger.info(slot)
        assert info.num_cached_tokens == info.num_computed_tokens
        return info.num_computed_tokens


def test_a_page_that_another_request_is_filling_is_copied_as_far_as_it_is_the_same(
    make_ledger,
) -> None:
    bench = Bench(make_ledger(num_pages=16))
    first = bench.admit([1, 2, 3, 4, 5, 6, 7])
    bench.compute(first, 7, token=8)
    twin = bench.admit([1, 2, 3, 4, 5, 6, 7])
    assert bench.num_computed(twin) == 6  # the last token is always computed
    longer = bench.admit([1, 2, 3, 4, 5, 9, 9, 9, 9])
    assert bench.num_computed(longer) == 5
    own, copied, another = bench.ledger.page_table([first, twin, longer])[:, 1].tolist()
    assert bench.copies == [(own, copied, 2), (own, another, 1)]
    assert bench.ledger.counters().prefix_hit_tokens == 6 + 5
    assert_clean(bench.ledger)


def test_nothing_is_copied_that_was_not_computed_or_stands_behind_another_prefix(
    make_ledger,
) -> None:
    bench = Bench(make_ledger(num_pages=20, num_slots=6))
    first = bench.admit([1, 2, 3, 4, 5, 6, 7])
    assert bench.num_computed(bench.admit([1, 2, 3, 4, 5, 6, 7])) == 0  # nothing is there yet
    bench.compute(first, 5)
    assert bench.num_computed(bench.admit([1, 2, 3, 4, 5, 6, 7])) == 5
    assert bench.num_computed(bench.admit([9, 2, 3, 4, 5, 6, 7])) == 0
    assert bench.num_computed(bench.admit([1, 2, 3, 4, 5])) == 4
    assert len(bench.copies) == 1


def test_what_a_backend_does_not_copy_is_computed(make_ledger) -> None:
    bench = Bench(make_ledger(num_pages=16))
    bench.compute(bench.admit([1, 2, 3]), 3, token=8)
    assert bench.num_computed(bench.admit([1, 2, 3], copied=False)) == 0
    assert bench.num_computed(bench.admit([1, 2, 3], reuse=False)) == 0
    assert len(bench.copies) == 1


def test_a_copy_that_fails_leaves_an_admitted_request_and_a_free_lock(make_ledger) -> None:
    bench = Bench(make_ledger())
    bench.compute(bench.admit([1, 2, 3]), 3, token=8)
    slot, generation = bench.ledger.claim(7, 7, np.array([1, 2, 3], np.int32), 4, b"")

    def fail(*_: int) -> bool:
        raise RuntimeError("the device has failed")

    with pytest.raises(RuntimeError, match="the device has failed"):
        bench.holder.admit(slot, generation, fail)
    assert bench.ledger.word(slot).holder == ME
    assert bench.num_computed(slot) == 0
    assert_clean(bench.ledger)


def test_the_least_recently_used_prefix_is_dropped_first_and_from_its_tail(make_ledger) -> None:
    ledger = make_ledger(num_pages=6)
    old, new = [1] * 8, [2] * 8
    run(ledger, old)
    run(ledger, new)
    assert hits(ledger, old + [0]) == 8  # used again: now it is the younger one
    assert assert_clean(ledger).free == 2
    assert hits(ledger, [3] * 12) == 0  # needs three pages, and caches none
    assert ledger.counters().evicted == 1
    assert hits(ledger, new + [0]) == 4
    assert hits(ledger, old + [0]) == 8


def test_own_hits_are_not_evicted_for_their_own_request(make_ledger) -> None:
    ledger = make_ledger(num_pages=4)
    run(ledger, [1] * 12)
    assert assert_clean(ledger).cached == 3
    assert hits(ledger, [1] * 12 + [2], max_tokens=2) == 12
    assert ledger.counters().evicted == 0


def test_own_hits_do_not_count_as_room_for_the_rest(make_ledger) -> None:
    ledger = make_ledger(num_pages=4)
    run(ledger, [1] * 12)
    holder = ledger.holder(ME)
    other = ledger.claim(1, 1, np.array([2, 2, 2], np.int32), 1, b"")
    assert holder.admit(*other) == Outcome.DONE
    assert assert_clean(ledger).free == 0
    slot = ledger.claim(2, 2, np.array([1] * 12 + [2], np.int32), 2, b"")
    assert holder.admit(*slot) == Outcome.NO_PAGES  # three hits, and none for the fourth page
    assert assert_clean(ledger).cached == 3


DIES_IN_THE_LOCK = """
import sys
from pdrt import _C_failpoints as C
holder = C.Ledger.attach(int(sys.argv[1])).holder(300)
C.failpoint_arm(1)
holder.admit(int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.chaos
def test_the_order_of_use_survives_a_death_inside_the_lock(make_ledger) -> None:
    ledger = make_ledger(num_pages=7)
    old, new = [1] * 8, [2] * 8
    run(ledger, old)
    run(ledger, new)
    assert hits(ledger, old + [0]) == 8  # used again: now it is the younger one
    slot, generation = ledger.claim(0, 0, np.array([5], np.int32), 1, b"")
    arguments = [str(number) for number in (ledger.fd, slot, generation)]
    dead = subprocess.run(
        [sys.executable, "-c", DIES_IN_THE_LOCK, *arguments], cwd=ROOT, pass_fds=[ledger.fd]
    )
    assert dead.returncode == -signal.SIGKILL
    assert_clean(ledger)
    assert ledger.counters().rebuilt == 1
    assert ledger.mark_abort(slot, generation) and ledger.sweep() == 1
    assert hits(ledger, [3] * 15) == 0  # needs four pages, has three
    assert ledger.counters().evicted == 1
    assert hits(ledger, new + [0]) == 4
    assert hits(ledger, old + [0]) == 8


def test_namespaces_do_not_share_digests(make_ledger) -> None:
    """A key is drawn for each ledger, so digests are never the same; hits work within each."""
    for name in (b"", b"phi-2", b"another model"):
        ledger = make_ledger(namespace=name)
        run(ledger, [1, 2, 3, 4, 5])
        assert hits(ledger, [1, 2, 3, 4, 5]) == 4


def test_the_digest_is_siphash_2_4_with_128_bits() -> None:
    """Outputs of the authors' reference implementation for the key 00 .. 0f."""
    key = bytes(range(16))
    known = {
        0: "a3817f04ba25a8e66df67214c7550293",
        1: "da87c1d86b99af44347659119b22fc45",
    }
    for length, digest in known.items():
        assert _C_failpoints.siphash128(key, bytes(range(length))).hex() == digest


def test_a_request_that_asks_for_it_is_computed_in_full_until_it_has_output(make_ledger) -> None:
    ledger = make_ledger()
    run(ledger, [1, 2, 3, 4, 5])
    queried = ledger.counters().prefix_queried_tokens
    slot, generation = ledger.claim(2, 2, np.array([1, 2, 3, 4, 5], np.int32), 4, b"", reuse=False)
    first, second = (ledger.holder(2 << 8 | i) for i in range(2))
    assert first.admit(slot, generation) is Outcome.DONE
    assert ledger.info(slot).num_cached_tokens == 0
    assert ledger.counters().prefix_queried_tokens == queried
    row = (slot, generation, 5, 9, 0.0, FinishReason.NONE)
    assert first.boundary(first.launch(), [row]) == [True]
    assert ledger.reap(first.instance) is Outcome.DONE
    assert second.admit(slot, ledger.word(slot).generation) is Outcome.DONE
    assert ledger.info(slot).num_computed_tokens == 4
    assert ledger.info(slot).num_cached_tokens == 0, "it has computed them itself"
