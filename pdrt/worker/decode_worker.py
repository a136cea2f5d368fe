"""The decode phase in a worker: hears Offer, says when it preempted somebody."""

from __future__ import annotations

from pdrt.messages import Offer, Report
from pdrt.sched.decode import DecodeScheduler
from pdrt.wire import Message


class DecodePhase:
    """Decode's part in a worker's turn."""

    def __init__(self, scheduler: DecodeScheduler) -> None:
        self.scheduler = scheduler

    def hear(self, message: Message) -> None:
        if isinstance(message, Offer):
            self.scheduler.tell(message.slot, message.generation)

    def settle(self) -> Report:
        return Report(tuple(self.scheduler.settle()), self.scheduler.has_preempted())
