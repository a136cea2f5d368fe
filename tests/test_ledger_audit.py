"""The leak auditor: every kind of damage is found. The tests write into the memory file."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from pdrt import _C_failpoints as C
from tests.ledger_driver import Clients, Worker, assert_clean, new_pool, run_to_end

ME = 1 << 8
FREE, WRITING, FILLED, QUARANTINED = range(4)
INDEXED, GENERATION = 1 << 2, 32


class Damage:
    """A ledger with three pages that prefill, two cached ones, and a way to break it."""

    def __init__(self) -> None:
        self.ledger = C.Ledger.create(
            num_pages=8, page_size=2, num_slots=3, max_model_len=8, sealed_bound=1
        )
        clients = Clients(C, self.ledger)
        clients.submit([5, 5, 5, 5], 1)
        run_to_end(clients, [Worker(C, self.ledger, ME + 1, new_pool(self.ledger))])
        prompt = np.arange(5, dtype=np.int32)
        self.slot, generation = self.ledger.claim(1, 1, prompt, 2, b"")
        assert self.ledger.holder(ME).admit(self.slot, generation) == C.Outcome.DONE
        self.pages = self.ledger.page_table([self.slot])[0].tolist()
        counts = assert_clean(self.ledger)
        assert (counts.prefilling, counts.cached, counts.free) == (3, 2, 3)
        self.memory = mmap.mmap(self.ledger.fd, self.ledger.num_bytes)
        self.offsets = C.region_offsets(self.ledger)

    def read(self, region: str, index: int) -> int:
        return struct.unpack_from("<Q", self.memory, self.offsets[region] + 8 * index)[0]

    def write(self, region: str, index: int, value: int, form: str = "<Q") -> None:
        at = self.offsets[region] + struct.calcsize(form) * index
        struct.pack_into(form, self.memory, at, value)

    def set_state(self, page: int, state: int, flags: int = 0) -> None:
        generation = self.read("page_words", page) >> GENERATION
        self.write("page_words", page, generation << GENERATION | flags | state)

    def page_in(self, state: int, indexed: bool = False) -> int:
        want = state | (INDEXED if indexed else 0)
        words = {p: self.read("page_words", p) & 0xFF for p in range(1, 9)}
        return next(p for p, word in words.items() if word == want)

    def findings(self) -> str:
        return "\n".join(self.ledger.audit().violations)


@pytest.fixture
def damage() -> Iterator[Damage]:
    damage = Damage()
    yield damage
    damage.memory.close()


def test_a_page_that_nobody_lists_is_lost(damage: Damage) -> None:
    damage.set_state(damage.page_in(FREE), WRITING)
    assert "needs one writer" in damage.findings()


def test_a_page_with_two_writers_is_found(damage: Damage) -> None:
    other = (damage.slot + 1) % 3
    claimed, generation = damage.ledger.claim(2, 2, np.arange(2, dtype=np.int32), 2, b"")
    assert claimed == other
    assert damage.ledger.holder(ME).admit(other, generation) == C.Outcome.DONE
    damage.write("lists", other * 4, damage.read("lists", damage.slot * 4))
    assert f"needs one writer, page, slots: {damage.pages[0]}, 2" in damage.findings()


def test_a_stale_entry_is_found(damage: Damage) -> None:
    word = damage.read("page_words", damage.pages[0])
    damage.write("page_words", damage.pages[0], word + (1 << GENERATION))
    assert "a stale page is listed" in damage.findings()


def test_an_entry_outside_the_pool_is_found(damage: Damage) -> None:
    damage.write("lists", damage.slot * 4, 1 << GENERATION | 77)
    assert f"no such page is listed by slot, page: {damage.slot}, 77" in damage.findings()


def test_a_free_page_in_use_is_found(damage: Damage) -> None:
    damage.set_state(damage.pages[1], FREE)
    assert "a FREE page is in use" in damage.findings()


def test_a_quarantine_without_end_is_found(damage: Damage) -> None:
    page = damage.page_in(FREE)
    damage.set_state(page, QUARANTINED)
    damage.write("tags", page, 0)
    assert f"nobody's step ends the quarantine of page: {page}" in damage.findings()


def test_a_filled_page_outside_the_index_and_all_lists_is_found(damage: Damage) -> None:
    damage.set_state(damage.page_in(FILLED, indexed=True), FILLED)
    assert "outside the index needs one reader" in damage.findings()


def test_an_indexed_page_that_the_table_does_not_find_is_found(damage: Damage) -> None:
    for bucket in range(16):
        damage.write("buckets", bucket, 0, "<I")
    assert "index and word disagree" in damage.findings()


def test_a_wrong_reader_count_is_found(damage: Damage) -> None:
    damage.write("readers", damage.pages[0], 2, "<I")
    assert f"wrong reader count of page, count: {damage.pages[0]}, 2" in damage.findings()


def test_a_free_list_that_lost_its_pages_is_found(damage: Damage) -> None:
    head = damage.ledger.num_pages + 1
    damage.write("links", head, head << 32 | head)
    assert "the free list: 0, 3" in damage.findings()


def test_a_list_that_holds_a_foreign_page_is_found(damage: Damage) -> None:
    head, page = damage.ledger.num_pages + 1, damage.pages[0]
    damage.write("links", head, page << 32 | page)
    assert f"the free list: {page}" in damage.findings()


def test_a_slot_with_a_wrong_holder_is_found(damage: Damage) -> None:
    word = damage.read("slot_words", damage.slot)
    damage.write("slot_words", damage.slot, word & ~(0xFFFFFF << 8))
    assert f"wrong holder of slot, holder: {damage.slot}, 0" in damage.findings()


def test_an_idle_slot_that_lists_pages_is_found(damage: Damage) -> None:
    word = damage.read("slot_words", damage.slot)
    damage.write("slot_words", damage.slot, word >> GENERATION << GENERATION)
    assert "pages are listed by an idle slot" in damage.findings()


def test_a_finished_request_in_the_queue_is_found(damage: Damage) -> None:
    slot, _ = damage.ledger.claim(2, 2, np.arange(2, dtype=np.int32), 2, b"")
    damage.write("lengths", slot, 1 << 32)
    assert f"a finished request is QUEUED in slot: {slot}" in damage.findings()


def test_a_wrong_count_of_sealed_slots_is_found(damage: Damage) -> None:
    damage.write("derived", 3, 2, "<I")
    assert "sealed slots, counted: 0, 2" in damage.findings()


def test_the_counts_of_the_last_audit_are_read_without_the_lock(damage: Damage) -> None:
    audited = damage.ledger.audit().counts
    snapshot = damage.ledger.counts()
    for name in ("free", "prefilling", "sealed", "decoding", "cached", "quarantined", "total"):
        assert getattr(snapshot, name) == getattr(audited, name)
    assert (
        C.Ledger.create(num_pages=8, page_size=2, num_slots=3, max_model_len=8, sealed_bound=1)
        .counts()
        .free
        == 8
    ), "before the first audit"
