"""The live workers as the router sees them, and which slots each was told of.

Frames only wake: the ledger decides who may take a slot. So telling too many costs little, and
telling one that dies costs time alone, as its successor is told again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pdrt._C import Phase, Word
from pdrt.messages import Admit, Look, Offer, Role
from pdrt.wire import Message

Send = Callable[[Message], bool]  # to one worker; False: it was not sent


@dataclass(slots=True)
class Worker:
    """A live worker instance. `told`: the last frame about each slot."""

    role: Role
    send: Send
    told: dict[int, Admit | Offer] = field(default_factory=dict)


class Workers:
    """All live workers of one server, by instance."""

    def __init__(self) -> None:
        self._live: dict[int, Worker] = {}

    def add(self, instance: int, role: Role, send: Send) -> None:
        self._live[instance] = Worker(role, send)

    def remove(self, instance: int) -> None:
        self._live.pop(instance, None)

    def tell(self, slot: int, word: Word, phase: Phase) -> None:
        """Tells of a slot of nobody, unless live workers know of it in this generation and phase.

        Of a QUEUED one all hear that could prefill it. Admission keeps the order of arrival between
        them, so if one alone knew of the oldest and had no room for it, the others would stand
        still: eight short prompts behind such a one had their first tokens after 101 steps, not 3.
        """
        if phase is Phase.QUEUED:
            admit = Admit(slot, word.generation)
            if not self._know(admit):
                self.forget(slot)
            for worker in self._of("prefill"):
                _tell(worker, admit)
        elif phase is Phase.SEALED:
            offer, workers = Offer(slot, word.generation), self._of("decode")
            if workers and not self._know(offer):
                _tell(min(workers, key=lambda each: len(each.told)), offer)

    def wake(self, instance: int) -> bool:
        """Tells a worker to look at what it holds; False where it is not alive."""
        worker = self._live.get(instance)
        if worker:
            worker.send(Look())
        return worker is not None

    def forget(self, slot: int) -> None:
        """What was told of the slot no longer holds."""
        for worker in self._live.values():
            worker.told.pop(slot, None)

    def _know(self, frame: Admit | Offer) -> bool:
        return any(worker.told.get(frame.slot) == frame for worker in self._live.values())

    def _of(self, role: Role) -> list[Worker]:
        return [worker for worker in self._live.values() if worker.role in (role, "unified")]


def _tell(worker: Worker, frame: Admit | Offer) -> None:
    """Once; again later, where the frame was not sent."""
    if worker.told.get(frame.slot) != frame and worker.send(frame):
        worker.told[frame.slot] = frame
