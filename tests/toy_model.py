"""A model that is a hash, and whose every read of KV is checked.

The KV of position i is a hash of tokens 0..i, and the next token follows from that of the last
position. Each step first checks all KV that it reads, so a page that was lost, shared by mistake or
overwritten is found where it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from pdrt._C import Ledger, Phase
from pdrt.request import Request
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Plan, Result, Row, Sampled, Scores

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


def score(value: int) -> float:
    """The log-probability of any token after a position with this KV."""
    return -float(value % 997)


def expected_output(request: Request) -> tuple[list[int], list[float]]:
    """The tokens that the request must produce, whatever happens to it, and their scores."""
    value, output, scores = chain(request.prompt_token_ids)[-1], list[int](), list[float]()
    while len(output) < request.max_tokens:
        output.append(next_token(value))
        scores.append(score(value))
        if output[-1] == EOS and not request.params.ignore_eos:
            break
        (value,) = chain(output[-1:], value)
    return output, scores


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
        return [self._row(row) for row in plan.rows]

    def _row(self, row: Row) -> Result:
        tokens = self._ledger.tokens(row.slot, 0, row.end).tolist()
        values = self._through_the_cache(row, chain(tokens))
        self._on_row()
        sampled = Sampled(self.sample(values, row.end), score(values[-1])) if row.samples else None
        return Result(sampled, self._prompt_scores(row, values))

    def _through_the_cache(self, row: Row, values: list[int]) -> list[int]:
        """Checks the KV that the row reads, and keeps what it computes."""
        size = self._ledger.page_size
        pages = self._ledger.page_table([row.slot])[0].tolist()
        places = [(pages[i // size], i % size) for i in range(row.end)]
        for i in range(row.start):
            assert self._kv.get(places[i]) == values[i], f"slot {row.slot} reads another's KV"
        self._kv.update(zip(places[row.start :], values[row.start :], strict=True))
        return values

    def _prompt_scores(self, row: Row, values: list[int]) -> tuple[Scores, ...]:
        """Of the prompt's tokens after the row's positions, where its request asks for them."""
        info = self._ledger.info(row.slot)
        if info.num_output_tokens > 0 or self._params(row.slot).prompt_logprobs < 0:
            return ()
        first, end = row.start + 1, min(row.end + 1, info.num_prompt_tokens)
        scores = np.array([score(value) for value in values[first - 1 : end - 1]], np.float32)
        nothing = np.empty((len(scores), 0))
        return (Scores(first, scores, nothing.astype(np.int32), nothing.astype(np.float32)),)

    def _params(self, slot: int) -> SlotParams:
        return msgspec.msgpack.decode(self._ledger.params(slot), type=SlotParams)

    def sample(self, values: list[int], end: int) -> int:
        """The token after the first `end`, whose KV is `values`."""
        return next_token(values[-1])
