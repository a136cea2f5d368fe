"""Decides which waiting requests prefill next, and how much of each.

    told -> waiting -> held: chunk, chunk, ... first token -> sealed

Runs in the prefill worker (and, in unified mode, in the one worker); touches no tensors. A step is
filled up to its token budget: first the chunks of requests that were admitted, oldest first, then
newly admitted ones. Admission takes all pages of a prompt or none, so a request that was admitted
can always go on; the ledger keeps the order of arrival between workers.
"""

from __future__ import annotations

from collections.abc import Callable

from pdrt._C import FinishReason, Holder, Ledger, Outcome, Phase
from pdrt.sched.held import Held, HeldSlots
from pdrt.sched.plan import NOTHING_UNREAD, Plan, Row, Unread

# (source page, destination page, number of first tokens) -> whether their KV was copied
CopyPage = Callable[[int, int, int], bool]


class PrefillScheduler:
    """Admission, chunks and sealing for one worker.

    `copy_page` copies what a prompt shares with a page that another request is filling.
    """

    def __init__(
        self, ledger: Ledger, holder: Holder, max_num_seqs: int, copy_page: CopyPage
    ) -> None:
        self._ledger = ledger
        self._holder = holder
        self._max_num_seqs = max_num_seqs
        self._copy_page = copy_page
        self._waiting: dict[int, int] = {}  # slot -> generation
        self.held = HeldSlots(ledger, holder, Phase.PREFILLING)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or len(self.held))

    def tell(self, slot: int, generation: int) -> None:
        """The router says that a slot is QUEUED."""
        self._waiting[slot] = generation

    def settle(self) -> tuple[list[int], list[Held]]:
        """At a step boundary: lets go of what must go, seals what has its first token.

        Returns:
            (slots that left, those that were sealed)
        """
        left = self.held.settle()
        sealed = [held for held in self.held if self._is_sealable(held) and self._seal(held)]
        return left, sealed

    def plan(self, budget: int, unread: Unread = NOTHING_UNREAD) -> Plan:
        """Rows of at most `budget` tokens in all. None is ahead: a prompt's tokens are known."""
        rows: list[Row] = []
        for held, num_computed in self.held.ready():
            budget -= _add_chunk(rows, held, unread.get(held.key, num_computed), budget)
        for slot in self._in_order():
            if budget < 1 or len(self.held) >= self._max_num_seqs:
                break
            outcome = self._holder.admit(slot, self._waiting[slot], self._copy_page)
            if outcome in (Outcome.BUSY, Outcome.NO_PAGES, Outcome.NOT_OLDEST):
                break  # and none of the younger ones either
            generation = self._waiting.pop(slot)
            if outcome is Outcome.STALE:
                continue  # aborted, or another worker was faster
            admitted = self.held.add(slot, generation)
            num_computed = self._ledger.info(slot).num_computed_tokens
            budget -= _add_chunk(rows, admitted, num_computed, budget)
        return Plan(tuple(rows))

    def _in_order(self) -> list[int]:
        """Waiting slots that are still QUEUED as we were told, oldest first; others are dropped."""
        for slot, generation in list(self._waiting.items()):
            word = self._ledger.word(slot)
            if (word.phase, word.generation) != (Phase.QUEUED, generation) or word.abort:
                del self._waiting[slot]
        return sorted(self._waiting, key=lambda slot: self._ledger.info(slot).rank)

    def _is_sealable(self, held: Held) -> bool:
        info = self._ledger.info(held.slot)
        num_tokens = info.num_prompt_tokens + info.num_output_tokens
        return info.finish_reason is FinishReason.NONE and num_tokens > held.goal

    def _seal(self, held: Held) -> bool:
        """False when as many slots are SEALED as may be: the back-pressure on prefill."""
        if self._holder.seal(held.slot) is not Outcome.DONE:
            return False
        self.held.forget(held.slot)
        return True


def _add_chunk(rows: list[Row], held: Held, start: int, budget: int) -> int:
    """Appends the slot's next chunk, unless it has none or there is no budget; its tokens."""
    num_tokens = min(held.goal - start, budget)
    if num_tokens < 1:
        return 0
    samples = start + num_tokens == held.goal
    rows.append(Row(held.slot, held.generation, start, num_tokens, samples))
    return num_tokens
