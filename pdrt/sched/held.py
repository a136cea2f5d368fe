"""The slots that one scheduler's worker holds, and how they are let go of.

A held slot ends in one of four ways, each decided by looking at its word and length at a step
boundary: its client left (abort), others need its pages (let go), its last token was read (finish),
or another of the worker's own operations gave it back (it is no longer ours: forget it).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from pdrt._C import FinishReason, Holder, Ledger, Outcome, Phase, Word
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Key, Row, Sampled


@dataclass(frozen=True, slots=True)
class Held:
    """What stays the same while a slot is held; its counts are read from the ledger."""

    slot: int
    generation: int
    rank: int
    goal: int  # tokens to compute in prefill
    num_tokens_with_kv: int  # at its longest: its last token of all gets none
    params: SlotParams

    @property
    def key(self) -> Key:
        return self.slot, self.generation


class HeldSlots:
    """The slots of one phase that this worker holds, oldest first."""

    def __init__(self, ledger: Ledger, holder: Holder, phase: Phase) -> None:
        self._ledger = ledger
        self._holder = holder
        self._phase = phase
        self._slots: dict[int, Held] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Held]:
        """Oldest first; a copy, so that slots may go while it is walked."""
        return iter(list(self._slots.values()))

    def get(self, slot: int, generation: int) -> Held | None:
        held = self._slots.get(slot)
        return held if held and held.generation == generation else None

    @property
    def reads_tokens(self) -> bool:
        """Whether a token of any of them is chosen by those before, so that they must be read."""
        return any(held.params.reads_tokens for held in self._slots.values())

    def add(self, slot: int, generation: int) -> Held:
        """After the ledger gave us the slot."""
        info = self._ledger.info(slot)
        params = msgspec.msgpack.decode(self._ledger.params(slot), type=SlotParams)
        longest = info.num_prompt_tokens + info.max_tokens - 1
        held = Held(slot, generation, info.rank, info.goal, longest, params)
        slots = {**self._slots, slot: held}
        self._slots = dict(sorted(slots.items(), key=lambda item: item[1].rank))
        return held

    def forget(self, slot: int) -> None:
        """After the ledger took the slot from us."""
        del self._slots[slot]

    def ready(self) -> Iterator[tuple[Held, int]]:
        """Those that a step may compute, oldest first, each with its num_computed_tokens.

        They are ours, unmarked, and not at their end. Lazy, since growing one may take the pages of
        a younger one.
        """
        for held in self:
            num_computed = self._holder.ready(held.slot, held.generation)
            if num_computed is not None:
                yield held, num_computed

    def _is_ours(self, held: Held, word: Word) -> bool:
        return (word.phase, word.holder, word.generation) == (
            self._phase,
            self._holder.instance,
            held.generation,
        )

    def settle(self) -> list[int]:
        """Lets go of every slot that is marked, finished or no longer ours.

        Returns the slots that left. One that found the lock busy stays for the next turn.
        """
        left = []
        for held in self:
            if self._holder.ready(held.slot, held.generation) is None and self._settle_one(held):
                self.forget(held.slot)
                left.append(held.slot)
        return left

    def _settle_one(self, held: Held) -> bool:
        word = self._ledger.word(held.slot)
        if not self._is_ours(held, word):
            return True
        if word.abort:
            outcome = self._holder.abort(held.slot)
        elif self._ledger.info(held.slot).finish_reason is not FinishReason.NONE:
            outcome = self._holder.finish(held.slot)
        elif word.victim:
            outcome = self._holder.let_go(held.slot)
        else:
            return False
        return outcome is not Outcome.BUSY and not self._is_ours(held, self._ledger.word(held.slot))


def finish_reason(held: Held, row: Row, sampled: Sampled, eos: frozenset[int]) -> FinishReason:
    """Whether the token that a row sampled, not yet in the ledger, is the last of its request.

    A model whose logits are not numbers ends the request it happened to, and no other.
    """
    if math.isnan(sampled.logprob):
        return FinishReason.ERROR
    if sampled.token in held.params.stop_token_ids:
        return FinishReason.STOP
    if sampled.token in eos and not held.params.ignore_eos:
        return FinishReason.STOP
    return FinishReason.LENGTH if row.end >= held.num_tokens_with_kv else FinishReason.NONE


def requests_held_by(ledger: Ledger, instance: int) -> list[int]:
    """The numbers of the requests in slots whose word names this instance."""
    slots = range(ledger.num_slots)
    return [ledger.info(slot).request_id for slot in slots if ledger.word(slot).holder == instance]


def requests_in(ledger: Ledger, instance: int, rows: Iterable[tuple[int, int]]) -> list[int]:
    """Their numbers, of those (slot, generation) that this instance still holds."""
    found = []
    for slot, generation in rows:
        word = ledger.word(slot)
        if (word.holder, word.generation) == (instance, generation):
            found.append(ledger.info(slot).request_id)
    return found
