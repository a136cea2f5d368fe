"""The C++ ledger beside a plain Python one: random operations, the same answers, the same books.

Two workers of both phases run with up to two steps in flight and die at any time. Their steps write
a pretend KV pool at launch and once more when they are read, since a step may write until then: a
page that was given to another too early is found by what it holds.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pdrt import _C
from tests.ledger_driver import assert_clean, new_pool, prefix_digests, slot_mapping
from tests.ledger_reference import Page, Reference

WORKERS = st.sampled_from([0, 1])
SLOTS = st.integers(0, 3)
PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=9)  # two token ids: many equal prefixes
MAX_TOKENS = st.sampled_from([1, 2, 5, 5])
SOME_SLOTS = st.lists(SLOTS, min_size=1, max_size=6)
AGE = st.sampled_from([0, 0, 0, 1])  # of the generation in a message: mostly the current one
TORN = -2  # what a step writes whose slot was given up: no token's KV
MAX_MODEL_LEN = 14


class LedgerMachine(RuleBasedStateMachine):
    @initialize(
        page_size=st.integers(1, 4),
        spare=st.integers(0, 4),
        bound=st.integers(1, 2),
        requests=st.lists(st.tuples(PROMPTS, MAX_TOKENS), min_size=2, max_size=4),
    )
    def create(
        self, page_size: int, spare: int, bound: int, requests: list[tuple[list[int], int]]
    ) -> None:
        num_pages = -(-MAX_MODEL_LEN // page_size) + spare
        self.real = _C.Ledger.create(
            num_pages=num_pages,
            page_size=page_size,
            num_slots=4,
            max_model_len=MAX_MODEL_LEN,
            sealed_bound=bound,
        )
        self.plain = Reference(num_pages, page_size, 4, bound)
        self.pool = new_pool(self.real)
        self.arrivals = 0
        self.incarnation = [0, 0]
        self.holders: list[_C.Holder] = []
        self.flights: list[list[tuple[int, list[tuple]]]] = [[], []]
        for worker in range(2):
            self.start(worker)

        for prompt, max_tokens in requests:
            self.claim(prompt, max_tokens, 0)

    # -- the router and the keeper ----------------------------------------------------------------
    @rule(
        prompt=PROMPTS,
        max_tokens=st.sampled_from([1, 2, 5, 5]),
        priority=st.sampled_from([0, 0, 1]),
    )
    def claim(self, prompt: list[int], max_tokens: int, priority: int) -> None:
        """Into any EMPTY slot; None only when there is none."""
        self.arrivals += 1
        rank = priority << 32 | self.arrivals
        claimed = self.real.claim(
            self.arrivals, rank, np.array(prompt, np.int32), max_tokens, bytes(prompt)
        )
        if claimed is None:
            assert all(s.phase != "EMPTY" for s in self.plain.slots)
            return
        slot, generation = claimed
        assert self.plain.slots[slot].phase == "EMPTY"
        assert self.plain.slots[slot].generation == generation
        assert self.real.params(slot) == bytes(prompt)
        self.plain.claim(slot, rank, prompt, max_tokens)

    @rule(slot=SLOTS, age=AGE)
    def mark_abort(self, slot: int, age: int) -> None:
        generation = self.plain.slots[slot].generation - age
        marked = self.real.mark_abort(slot, generation)
        assert marked == self.plain.mark_abort(slot, generation)

    @rule(slot=SLOTS, age=AGE)
    def end(self, slot: int, age: int) -> None:
        generation = self.plain.slots[slot].generation - age
        assert self.real.end(slot, generation) == self.plain.end(slot, generation)

    @rule()
    def sweep(self) -> None:
        assert self.real.sweep() == self.plain.sweep()

    @rule(worker=WORKERS, keep_filled=st.booleans())
    def die_and_be_reaped(self, worker: int, keep_filled: bool) -> None:
        instance = self.holders[worker].instance
        for _, rows in self.flights[worker]:
            self.write(rows, late=True)
        self.flights[worker].clear()
        assert self.real.reap(instance, keep_filled).name == self.plain.reap(instance, keep_filled)
        self.start(worker)

    def start(self, worker: int) -> None:
        self.incarnation[worker] += 1
        holder = self.real.holder(self.incarnation[worker] << 8 | worker)
        self.holders[worker : worker + 1] = [holder]
        self.plain.launched[holder.instance] = self.plain.read[holder.instance] = 0

    # -- workers ----------------------------------------------------------------------------------
    @rule(worker=WORKERS, slots=SOME_SLOTS)
    def work(self, worker: int, slots: list[int]) -> None:
        """What a worker would do next with each of these slots."""
        for slot in slots:
            s = self.plain.slots[slot]
            if s.phase == "QUEUED":
                self.admit(worker, slot, 0, copies=slot % 2 == 0)
            elif s.phase == "SEALED":
                self.take(worker, slot, 0)
            elif s.held_by(self.holders[worker].instance):
                self.work_on_own(worker, slot)

    def work_on_own(self, worker: int, slot: int) -> None:
        s = self.plain.slots[slot]
        if s.abort or s.reason != "NONE":
            self.leave(worker, slot, "abort" if s.abort else "finish")
        elif s.victim:
            self.leave(worker, slot, "let_go")
        elif s.phase == "PREFILLING":
            self.leave(worker, slot, "seal")
        else:
            self.grow(worker, slot)

    @rule(worker=WORKERS, slot=SLOTS, age=AGE, copies=st.booleans())
    def admit(self, worker: int, slot: int, age: int, copies: bool) -> None:
        generation = self.plain.slots[slot].generation - age
        holder = self.holders[worker]
        got = holder.admit(slot, generation, self.copy if copies else None).name
        assert got == self.plain.admit(holder.instance, slot, generation, copies)

    def copy(self, source: int, destination: int, num_tokens: int) -> bool:
        self.pool[destination, :num_tokens] = self.pool[source, :num_tokens]
        return True

    @rule(worker=WORKERS, slot=SLOTS, age=AGE)
    def take(self, worker: int, slot: int, age: int) -> None:
        self.both(worker, "take", slot, self.plain.slots[slot].generation - age)

    @rule(worker=WORKERS, slot=SLOTS, op=st.sampled_from(["seal", "let_go", "finish", "abort"]))
    def leave(self, worker: int, slot: int, op: str) -> None:
        self.both(worker, op, slot)

    @rule(worker=WORKERS, slot=SLOTS)
    def grow(self, worker: int, slot: int) -> None:
        s, sent = self.plain.slots[slot], self.sent(worker, slot)
        if s.held_by(self.holders[worker].instance):
            self.both(worker, "grow", slot, min(sent + 1, s.full), sent > s.computed)
        else:
            self.both(worker, "grow", slot, 1, False)

    def both(self, worker: int, op: str, *args: int | bool) -> None:
        holder = self.holders[worker]
        got = getattr(holder, op)(*args).name
        assert got == getattr(self.plain, op)(holder.instance, *args)

    @rule(worker=WORKERS, tokens=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def run(self, worker: int, tokens: list[int]) -> None:
        """Several whole turns without disturbance, so that requests come far."""
        for token in tokens:
            self.work(worker, [0, 1, 2, 3])
            self.launch(worker, 9)
            self.read_oldest_step(worker, token, "NONE")

    # -- steps ------------------------------------------------------------------------------------
    def sent(self, worker: int, slot: int) -> int:
        """Tokens that are computed or in flight."""
        s = self.plain.slots[slot]
        rows = [row for _, rows in self.flights[worker] for row in rows]
        return max([s.computed] + [r[2] for r in rows if r[:2] == (slot, s.generation)])

    @precondition(lambda self: any(len(f) < 2 for f in self.flights))
    @rule(worker=WORKERS, chunk=st.sampled_from([1, 3, 9]))
    def launch(self, worker: int, chunk: int) -> None:
        if len(self.flights[worker]) == 2:
            return
        rows = [row for slot in range(4) if (row := self.next_row(worker, slot, chunk))]
        holder = self.holders[worker]
        step = holder.launch()
        self.plain.launched[holder.instance] = step
        assert self.real.steps(worker) == step
        self.write(rows, late=False)
        self.flights[worker].append((step, rows))

    def next_row(self, worker: int, slot: int, chunk: int) -> tuple | None:
        s, sent = self.plain.slots[slot], self.sent(worker, slot)
        held = s.held_by(self.holders[worker].instance)
        if not held or s.abort or s.victim or s.reason != "NONE":
            return None
        upto = min(s.goal, sent + chunk) if s.phase == "PREFILLING" else min(s.full, sent + 1)
        if upto <= sent or upto > len(s.pages) * self.plain.page_size:
            return None
        self.check_kv(slot)
        return slot, s.generation, upto, slot_mapping(self.real, slot, upto)[sent:]

    def check_kv(self, slot: int) -> None:
        """What was computed is still there: the slot's own KV, for all steps that were read."""
        s = self.plain.slots[slot]
        places = slot_mapping(self.real, slot, s.computed)
        digests = prefix_digests(s.tokens[: s.computed])
        assert self.pool.reshape(-1)[places].tolist() == digests, "another request's KV"

    def write(self, rows: list[tuple], late: bool) -> None:
        """A step's rows write their KV; a late write of a slot that was given up is TORN."""
        for slot, generation, upto, places in rows:
            s = self.plain.slots[slot]
            tokens = s.tokens[:upto]
            torn = s.generation != generation or s.phase == "EMPTY" or len(tokens) < upto
            kv = [TORN] * len(places) if torn else prefix_digests(tokens)[upto - len(places) :]
            if late or not torn:
                self.pool.reshape(-1)[places] = kv

    @rule(worker=WORKERS, token=st.integers(0, 1), ending=st.sampled_from(["NONE"] * 9 + ["STOP"]))
    def read_oldest_step(self, worker: int, token: int, ending: str) -> None:
        if not self.flights[worker]:
            return
        step, launched = self.flights[worker].pop(0)
        self.write(launched, late=True)
        rows = [self.result(row, token, ending) for row in launched]
        holder = self.holders[worker]
        real_rows = [(*row[:4], -0.5, getattr(_C.FinishReason, row[4])) for row in rows]
        got = holder.boundary(step, real_rows)
        assert got == self.plain.boundary(holder.instance, step, rows)
        assert holder.read == step

    def result(self, row: tuple, token: int, ending: str) -> tuple[int, int, int, int, str]:
        slot, generation, upto, _ = row
        s = self.plain.slots[slot]
        if upto != len(s.tokens):
            return slot, generation, upto, -1, "NONE"
        if len(s.output) + 1 == s.max_tokens:
            ending = "LENGTH"
        return slot, generation, upto, token, ending

    @rule(worker=WORKERS)
    def a_request_fails(self, worker: int) -> None:
        if not self.flights[worker]:
            return
        step, launched = self.flights[worker].pop(0)
        self.write(launched, late=True)
        rows = [(row[0], row[1], row[2], -1, "ERROR") for row in launched]
        real_rows = [(*row[:4], 0.0, _C.FinishReason.ERROR) for row in rows]
        holder = self.holders[worker]
        got = holder.boundary(step, real_rows)
        assert got == self.plain.boundary(holder.instance, step, rows)

    # -- after each rule --------------------------------------------------------------------------
    @invariant()
    def words_and_numbers_are_equal(self) -> None:
        for slot, s in enumerate(getattr(self, "plain", Reference(0, 1, 0, 1)).slots):
            word, info = self.real.word(slot), self.real.info(slot)
            got = word.phase.name, word.holder, word.abort, word.victim, word.generation
            assert got == (s.phase, s.holder, s.abort, s.victim, s.generation)
            assert info.num_pages == len(s.pages)
            if s.phase == "EMPTY":
                continue
            numbers = info.rank, info.num_computed_tokens, info.num_cached_tokens, info.goal
            assert numbers == (s.rank, s.computed, s.cached, s.goal)
            assert info.finish_reason.name == s.reason
            assert self.real.tokens(slot, 0, len(s.tokens)).tolist() == s.tokens
            assert info.num_output_tokens == len(s.output)

    @invariant()
    def pages_are_shared_alike(self) -> None:
        """Page ids and the reference's pages stand in a one-to-one relation."""
        if not hasattr(self, "plain"):
            return
        by_id: dict[int, Page] = {}
        table = self.real.page_table([0, 1, 2, 3])
        for row, s in zip(table.tolist(), self.plain.slots, strict=True):
            assert row[len(s.pages) :] == [0] * (table.shape[1] - len(s.pages))
            for page_id, page in zip(row, s.pages, strict=False):
                assert page_id > 0 and by_id.setdefault(page_id, page) is page
        assert len(by_id) == len({p for s in self.plain.slots for p in s.pages})

    @invariant()
    def books_are_equal(self) -> None:
        if not hasattr(self, "plain"):
            return
        assert_clean(self.real)
        counts, snapshot = self.plain.counts(), self.real.counts()
        assert {name: getattr(snapshot, name) for name in counts} == counts

    # -- the end: whatever happened, all requests can finish ---------------------------------------
    def teardown(self) -> None:
        if not hasattr(self, "plain"):
            return
        for turn in range(400):
            if all(s.phase == "EMPTY" for s in self.plain.slots):
                break
            self.turn(turn % 2)
        assert all(s.phase == "EMPTY" for s in self.plain.slots), "a request never finishes"
        for worker in range(2):
            while self.flights[worker]:
                self.read_oldest_step(worker, 0, "STOP")
        self.books_are_equal()
        counts = self.plain.counts()
        assert counts["free"] + counts["cached"] == self.plain.num_pages

    def turn(self, worker: int) -> None:
        self.sweep()
        for slot in range(4):
            self.end(slot, 0)
        self.work(worker, [0, 1, 2, 3])
        self.launch(worker, 9)
        self.read_oldest_step(worker, 1, "NONE")
        self.words_and_numbers_are_equal()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=250,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestLedgerMachine.pytestmark = [pytest.mark.timeout(240)]
