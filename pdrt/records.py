"""What the router knows of each request."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from pdrt.errors import DeviceFault, EngineDead, PdrtError
from pdrt.request import Request
from pdrt.sampling_params import slot_params
from pdrt.updates import Sink

PRIORITY_BIAS = 1 << 15
MAX_ARRIVALS = 1 << 47
MAX_FRUITLESS_DEATHS = 3  # workers that may die under a request before one more token of it is read


@dataclass(slots=True, eq=False)
class Record:
    """One request, from its arrival until its slot is EMPTY again."""

    request: Request
    number: int  # in order of arrival
    sink: Sink
    slot: int = -1
    num_emitted: int = 0
    ended: bool = False  # its last update was sent; the slot may still be on its way to EMPTY
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


def why_given_up(record: Record, fault: str) -> PdrtError | None:
    """Why a request whose worker died is not run again; None where it is.

    Args:
        fault: of the GPU, where it was computing the request.
    """
    name = f"request {record.request.request_id} was given up"
    if fault:
        return DeviceFault(f"{name}: the GPU failed while it was computed: {fault}")
    if record.fruitless_deaths < MAX_FRUITLESS_DEATHS:
        return None
    return EngineDead(  # it may be what kills them
        f"{name}: {record.fruitless_deaths} workers died while they ran it, without a token in "
        "between; the server's log says how"
    )
