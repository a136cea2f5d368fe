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

from pdrt._C import FinishReason, Holder, Ledger, Outcome, Phase, SlotInfo, Word
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Key, Sampled


@dataclass(frozen=True, slots=True)
class Held:
    """What stays the same while a slot is held; its counts are read from the ledger."""

    slot: int
    generation: int
    rank: int
    max_tokens: int
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
        self._slots: dict[int, Held] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Held]:
        """Oldest first; a copy, so that slots may go while it is walked."""
        return iter(sorted(self._slots.values(), key=lambda held: held.rank))

    def get(self, key: Key) -> Held | None:
        held = self._slots.get(key[0])
        return held if held and held.key == key else None

    @property
    def reads_tokens(self) -> bool:
        """Whether a token of any of them is chosen by those before, so that they must be read."""
        return any(held.params.reads_tokens for held in self._slots.values())

    def add(self, slot: int, generation: int) -> Held:
        """After the ledger gave us the slot."""
        info = self._ledger.info(slot)
        params = msgspec.msgpack.decode(self._ledger.params(slot), type=SlotParams)
        longest = info.num_prompt_tokens + info.max_tokens - 1
        held = Held(slot, generation, info.rank, info.max_tokens, longest, params)
        self._slots[slot] = held
        return held

    def forget(self, slot: int) -> None:
        """After the ledger took the slot from us."""
        del self._slots[slot]

    def has_ended(self, slot: int) -> bool:
        """Ours, and its last token was read."""
        return slot in self._slots and _is_finished(self._ledger.info(slot))

    def ready(self) -> Iterator[tuple[Held, SlotInfo]]:
        """Those that a step may compute, oldest first: ours, unmarked, and not at their end.

        Lazy, since growing one may take the pages of a younger one.
        """
        for held in self:
            word = self._ledger.word(held.slot)
            info = self._ledger.info(held.slot)
            marked = word.abort or word.victim
            if self._is_ours(held, word) and not marked and not _is_finished(info):
                yield held, info

    def _is_ours(self, held: Held, word: Word) -> bool:
        return (word.phase, word.holder, word.generation) == (
            self._phase,
            self._holder.instance,
            held.generation,
        )

    def finish_reason(self, held: Held, sampled: Sampled, eos: frozenset[int]) -> FinishReason:
        """Whether a token, sampled but not yet in the ledger, is the last of its request.

        A model whose logits are not numbers ends the request it happened to, and no other.
        """
        if math.isnan(sampled.logprob):
            return FinishReason.ERROR
        if sampled.token in held.params.stop_token_ids:
            return FinishReason.STOP
        if sampled.token in eos and not held.params.ignore_eos:
            return FinishReason.STOP
        is_last = self._ledger.info(held.slot).num_output_tokens + 1 >= held.max_tokens
        return FinishReason.LENGTH if is_last else FinishReason.NONE

    def settle(self) -> list[int]:
        """Lets go of every slot that is marked, finished or no longer ours.

        Returns the slots that left. One that found the lock busy stays for the next turn.
        """
        left = []
        for held in self:
            if self._settle_one(held):
                self.forget(held.slot)
                left.append(held.slot)
        return left

    def _settle_one(self, held: Held) -> bool:
        word = self._ledger.word(held.slot)
        if not self._is_ours(held, word):
            return True
        if word.abort:
            outcome = self._holder.abort(held.slot)
        elif _is_finished(self._ledger.info(held.slot)):
            outcome = self._holder.finish(held.slot)
        elif word.victim:
            outcome = self._holder.let_go(held.slot)
        else:
            return False
        return outcome is not Outcome.BUSY and not self._is_ours(held, self._ledger.word(held.slot))


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


def _is_finished(info: SlotInfo) -> bool:
    """Its last token was read."""
    return info.finish_reason is not FinishReason.NONE
