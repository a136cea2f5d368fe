"""The decode phase in a worker: hears Offer, says when it preempted somebody."""

from __future__ import annotations

from pdrt.messages import Message, Offer, Report
from pdrt.sched.decode import DecodeScheduler
from pdrt.sched.held import HeldSlots
from pdrt.sched.plan import Plan


class DecodePhase:
    """Decode's part in a worker's turn."""

    def __init__(self, scheduler: DecodeScheduler) -> None:
        self._scheduler = scheduler

    @property
    def held(self) -> HeldSlots:
        return self._scheduler.held

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def hear(self, message: Message) -> None:
        if isinstance(message, Offer):
            self._scheduler.tell(message.slot, message.generation)

    def settle(self) -> Report:
        return Report(tuple(self._scheduler.settle()), self._scheduler.has_preempted())

    def plan(self, budget: int) -> Plan:
        return self._scheduler.plan(budget)
