"""The prefill phase in a worker: hears Admit, seals what has its first token."""

from __future__ import annotations

from collections.abc import Callable

from pdrt.messages import Admit, Report
from pdrt.sched.prefill import PrefillScheduler
from pdrt.wire import Message


class PrefillPhase:
    """Prefill's part in a worker's turn.

    `on_sealed` is called with (slot, generation); unified mode offers the slot to its own decode
    phase there, without the way through the router.
    """

    def __init__(
        self,
        scheduler: PrefillScheduler,
        on_sealed: Callable[[int, int], None] = lambda slot, generation: None,
    ) -> None:
        self.scheduler = scheduler
        self._on_sealed = on_sealed

    def hear(self, message: Message) -> None:
        if isinstance(message, Admit):
            self.scheduler.tell(message.slot, message.generation)

    def settle(self) -> Report:
        left, sealed = self.scheduler.settle()
        for held in sealed:
            self._on_sealed(held.slot, held.generation)
        return Report((*left, *(held.slot for held in sealed)))
