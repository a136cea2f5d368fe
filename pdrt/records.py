"""What the router knows of each request and of each worker, and what it tells about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from pdrt._C import FinishReason, Times
from pdrt.errors import EngineDead, PdrtError
from pdrt.messages import Message, Role
from pdrt.request import Request
from pdrt.sampling_params import slot_params

PRIORITY_BIAS = 1 << 15
MAX_ARRIVALS = 1 << 47

REASONS: dict[FinishReason, str | None] = {
    FinishReason.NONE: None,
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ERROR: None,  # told as an error
}


@dataclass(frozen=True, slots=True)
class Update:
    """News of one request: tokens since the last update, and how it ended, if it did."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    error: PdrtError | None = None
    times: Times | None = None
    num_cached_tokens: int = 0

    @property
    def is_last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class Sink(Protocol):
    """Where a request's updates go. Called in the router's thread; exactly one update is last."""

    def __call__(self, update: Update) -> None: ...


@dataclass(slots=True)
class Worker:
    """A live worker instance, and the slots that it was told of."""

    instance: int
    role: Role
    send: Callable[[Message], bool]
    told: set[int] = field(default_factory=set)  # slots


@dataclass(slots=True, eq=False)
class Record:
    """One request, from its arrival until its slot is EMPTY again."""

    request: Request
    number: int  # in order of arrival
    sink: Sink
    slot: int = -1
    num_emitted: int = 0
    ended: bool = False  # its last update was sent; the slot may still be on its way to EMPTY
    told_generation: int = -1
    told_worker: Worker | None = None
    fruitless_deaths: int = 0

    @property
    def rank(self) -> int:
        """Smaller is older: (priority, first arrival), fixed for the request's whole life."""
        return (self.request.params.priority + PRIORITY_BIAS) * MAX_ARRIVALS + self.number

    @property
    def slot_params(self) -> bytes:
        """What the workers need of the sampling parameters, as it lies in the slot."""
        request = self.request
        return msgspec.msgpack.encode(slot_params(request.params, request.seed, request.bad_words))

    def __lt__(self, other: Record) -> bool:
        return self.rank < other.rank


def request_error(reason: FinishReason) -> PdrtError | None:
    """The error behind a finish reason of the ledger, None where there is none."""
    if reason is not FinishReason.ERROR:
        return None
    return PdrtError("this request failed in a worker; the server's log says why")


def too_many_deaths(record: Record) -> EngineDead:
    """For a request under which workers keep dying: it may be what kills them."""
    return EngineDead(
        f"request {record.request.request_id} was given up: {record.fruitless_deaths} workers died "
        "while they ran it, without a token in between; the server's log says how"
    )
