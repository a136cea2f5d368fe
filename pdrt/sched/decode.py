"""Decides which requests decode in the next step: continuous batching.

    offered -> held: one token a step -> finished, aborted, or preempted

Runs in the decode worker (and, in unified mode, in the one worker); touches no tensors. Every held
request gets a row in every step, if it has a page for it. Pages are grown oldest first, so when
there are none left it is the youngest request, wherever it runs, that gives its pages back.
"""

from __future__ import annotations

from pdrt._C import Holder, Ledger, Outcome, Phase
from pdrt.sched.held import HeldSlots
from pdrt.sched.plan import NOTHING_UNREAD, Plan, Row, Unread


class DecodeScheduler:
    """Taking, growing and stepping for one worker."""

    def __init__(self, ledger: Ledger, holder: Holder, max_num_seqs: int) -> None:
        self._ledger = ledger
        self._holder = holder
        self._max_num_seqs = max_num_seqs
        self._offered: dict[int, int] = {}  # slot -> generation
        self.held = HeldSlots(ledger, holder, Phase.DECODING)
        self._preempted = False

    @property
    def has_work(self) -> bool:
        return bool(self._offered or len(self.held))

    def tell(self, slot: int, generation: int) -> None:
        """The router offers a SEALED slot."""
        self._offered[slot] = generation

    def settle(self) -> list[int]:
        """At a step boundary: lets go of what must go, takes what was offered.

        Returns the slots that changed hands.
        """
        return self.held.settle() + self._take_offered()

    def has_preempted(self) -> bool:
        """Whether, since this was last asked, any slot was sent back to QUEUED for its pages."""
        preempted, self._preempted = self._preempted, False
        return preempted

    def plan(self, budget: int, unread: Unread = NOTHING_UNREAD) -> Plan:
        """One row for each held slot, oldest first, that has a page for its next token.

        A slot whose unread token is the last by `max_tokens` gets none.
        """
        rows: list[Row] = []
        # No row is undone by a later one: a request that grows takes pages from younger ones only.
        for held, num_computed in self.held.ready():
            end = unread.get(held.key)
            is_ahead = end is not None
            start = num_computed if end is None else end
            if len(rows) >= budget or start >= held.num_tokens_with_kv:
                continue
            if self._grow(held.slot, start + 1, is_ahead, unread):
                rows.append(Row(held.slot, held.generation, start, 1, True, is_ahead))
        return Plan(tuple(rows))

    def _take_offered(self) -> list[int]:
        """Oldest first, up to the limit of a step; what is no longer SEALED is dropped."""
        taken = []
        for slot in self._offered_in_order():
            if len(self.held) >= self._max_num_seqs:
                break
            generation = self._offered[slot]
            outcome = self._holder.take(slot, generation)
            if outcome is Outcome.BUSY:
                break
            del self._offered[slot]
            if outcome is Outcome.DONE:
                self.held.add(slot, generation)
                taken.append(slot)
        return taken

    def _offered_in_order(self) -> list[int]:
        for slot, generation in list(self._offered.items()):
            word = self._ledger.word(slot)
            if (word.phase, word.generation) != (Phase.SEALED, generation) or word.abort:
                del self._offered[slot]
        return sorted(self._offered, key=lambda slot: self._ledger.info(slot).rank)

    def _grow(self, slot: int, num_tokens: int, is_ahead: bool, unread: Unread) -> bool:
        """True when the slot has pages for `num_tokens` tokens.

        A speculative page is one that nobody uses: a request that may just be ending takes nothing
        from another. Nor does anyone else while pages of a preempted one wait for an unread step.
        """
        while True:
            speculative = is_ahead or (self._preempted and bool(unread))
            outcome = self._holder.grow(slot, num_tokens, speculative)
            if outcome not in (Outcome.PREEMPTED, Outcome.LET_GO):
                return outcome is Outcome.DONE
            self._preempted = True
            if outcome is Outcome.LET_GO:
                return False
