"""A model that is a hash, and whose every read of KV is checked.

The KV of position i is a hash of tokens 0..i, and the next token follows from that of the last
position. Each step first checks all KV that it reads, so a page that was lost, shared by mistake or
overwritten is found where it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pdrt._C import Ledger, Phase
from pdrt.request import Request
from pdrt.sched.plan import Plan, Result, Sampled

VOCABULARY = 5
EOS = 0
MODULUS = (1 << 61) - 1


def chain(tokens: Sequence[int], value: int = 1) -> list[int]:
    """The KV of each position; `value` is that of the position before the first."""
    values = []
    for token in tokens:
        value = (value * 1_000_003 + token + 1) % MODULUS
        values.append(value)
    return values


def next_token(value: int) -> int:
    """The token after a position with this KV."""
    return (value >> 7) % VOCABULARY


def expected_output(request: Request) -> list[int]:
    """What the request must produce, whatever happens to it."""
    value, output = chain(request.prompt_token_ids)[-1], list[int]()
    while len(output) < request.max_tokens:
        output.append(next_token(value))
        if output[-1] == EOS and not request.params.ignore_eos:
            break
        (value,) = chain(output[-1:], value)
    return output


@dataclass(frozen=True)
class Limits:
    """Of one step of one worker."""

    num_tokens: int
    num_seqs: int  # of each phase

    def check(self, plan: Plan, phases: Sequence[Phase]) -> None:
        """`phases` are those of the plan's rows."""
        assert 0 < plan.num_tokens <= self.num_tokens, plan
        assert len({row.slot for row in plan.rows}) == len(plan.rows), plan
        assert set(phases) <= {Phase.PREFILLING, Phase.DECODING}, phases
        assert all(phases.count(phase) <= self.num_seqs for phase in phases), plan


class ToyRunner:
    """Computes plans with the toy model on KV that all workers share.

    `on_row` is called after each row was computed; a worker that dies there dies in its step, with
    some rows computed and none read.
    """

    def __init__(
        self,
        ledger: Ledger,
        kv: dict[tuple[int, int], int],
        limits: Limits,
        on_row: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._kv = kv  # (page, offset) -> value
        self._on_row = on_row

    def run(self, plan: Plan) -> list[Result]:
        self._limits.check(plan, [self._ledger.word(row.slot).phase for row in plan.rows])
        return [Result(self._row(row.slot, row.start, row.end, row.samples)) for row in plan.rows]

    def _row(self, slot: int, start: int, end: int, samples: bool) -> Sampled | None:
        size = self._ledger.page_size
        pages = self._ledger.page_table([slot])[0].tolist()
        values = chain(self._ledger.tokens(slot, 0, end).tolist())
        for i in range(start):
            place = (pages[i // size], i % size)
            assert self._kv.get(place) == values[i], f"slot {slot} reads another's KV at {place}"
        for i in range(start, end):
            self._kv[pages[i // size], i % size] = values[i]
        self._on_row()
        return Sampled(self.sample(values, end), -float(end)) if samples else None

    def sample(self, values: list[int], end: int) -> int:
        """The token after the first `end`, whose KV is `values`."""
        return next_token(values[-1])
