"""A model that is a hash, and whose every read of KV is checked.

The KV of position i is a hash of tokens 0..i, and the next token follows from that of the last
position. Each step first checks all KV that it reads, so a page that was lost, shared by mistake or
overwritten is found where it is read.

With two steps in flight the toy device is as a GPU may be at its worst: it computes late, from what
the host knew at the launch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from pdrt._C import FinishReason, Holder, Ledger, Phase
from pdrt.request import Request
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Key, Plan, Result, Row, Sampled, Scores

VOCABULARY = 5
EOS = 0
MODULUS = (1 << 61) - 1
OF_NO_USE = -1  # KV of a row that nobody reads the result of


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
    """Of the steps of one worker. `depth`: how many may be in flight."""

    num_tokens: int
    num_seqs: int  # of each phase
    depth: int

    def check(self, plan: Plan, phases: Sequence[Phase]) -> None:
        """`phases` are those of the plan's rows."""
        assert 0 < plan.num_tokens <= self.num_tokens, plan
        assert len({row.slot for row in plan.rows}) == len(plan.rows), plan
        assert set(phases) <= {Phase.PREFILLING, Phase.DECODING}, phases
        assert all(phases.count(phase) <= self.num_seqs for phase in phases), plan


@dataclass(frozen=True)
class ToyRow:
    """A row as the device has it: what the host knew when it was launched."""

    row: Row
    tokens: list[int]  # before the row's end, without the one that the step before samples
    places: list[tuple[int, int]]  # (page, offset) of each position
    num_scored: int  # tokens of the prompt that are scored; 0: its request does not ask

    @property
    def end(self) -> int:
        return self.row.end


@dataclass
class ToyStep:
    """A step on its way; the device computes its rows one by one."""

    runner: ToyRunner
    rows: Sequence[ToyRow]
    results: list[Result] = field(default_factory=list)

    @property
    def is_computed(self) -> bool:
        return len(self.results) == len(self.rows)

    def read(self) -> list[Result]:
        self.runner.compute_until(self)
        return self.results


class ToyRunner:
    """Computes plans with the toy model on KV that all workers share.

    Steps are computed in launch order and as late as may be: when one is read, or when a test says
    so. A row whose request has ended or was given up by then reads whatever lies in its pages, and
    writes what is of no use to anyone. `on_row` is called after each row was computed; a worker
    that dies there dies while the device is at work, with some rows computed and none read.
    """

    def __init__(
        self,
        holder: Holder,
        ledger: Ledger,
        kv: dict[tuple[int, int], int],
        limits: Limits,
        on_row: Callable[[], None],
    ) -> None:
        self.depth = limits.depth
        self._instance = holder.instance
        self._ledger = ledger
        self._limits = limits
        self._kv = kv  # (page, offset) -> value
        self._on_row = on_row
        self._queue: deque[ToyStep] = deque()  # launched, and not computed
        self._sampled: dict[Key, int] = {}  # by the last step that was computed

    def copy_page(self, source: int, destination: int, num_tokens: int) -> bool:
        """What others have computed may be copied at once: none of their steps writes it."""
        for offset in range(num_tokens):
            self._kv[destination, offset] = self._kv[source, offset]
        return True

    def launch(self, plan: Plan) -> ToyStep:
        self._limits.check(plan, [self._ledger.word(row.slot).phase for row in plan.rows])
        step = ToyStep(self, [self._launch(row) for row in plan.rows])
        self._queue.append(step)
        if self.depth == 1:
            self.compute_until(step)
        return step

    def compute_until(self, step: ToyStep | None = None) -> None:
        """Computes what was launched, up to a step or all of it."""
        while self._queue and (step is None or not step.is_computed):
            self._compute(self._queue[0])
            self._queue.popleft()

    def end(self) -> None:
        """The worker's process is dead, and nobody dies of a row any more."""
        self._on_row = lambda: None
        self.compute_until()

    def _launch(self, row: Row) -> ToyRow:
        size, info = self._ledger.page_size, self._ledger.info(row.slot)
        assert not (row.is_ahead and self._params(row.slot).reads_tokens), row
        tokens = self._ledger.tokens(row.slot, 0, row.end - row.is_ahead).tolist()
        pages = self._ledger.page_table([row.slot])[0].tolist()
        places = [(pages[i // size], i % size) for i in range(row.end)]
        is_new = info.num_output_tokens == 0
        is_scored = is_new and self._params(row.slot).prompt_logprobs >= 0
        return ToyRow(row, tokens, places, info.num_prompt_tokens if is_scored else 0)

    def _compute(self, step: ToyStep) -> None:
        while not step.is_computed:
            row = step.rows[len(step.results)]
            unknown = [self._sampled[row.row.key]] if row.row.is_ahead else []
            step.results.append(self._row(row, chain(row.tokens + unknown)))
            self._on_row()
        results = zip(step.rows, step.results, strict=True)
        self._sampled = {row.row.key: got.sampled.token for row, got in results if got.sampled}

    def _row(self, row: ToyRow, values: list[int]) -> Result:
        if self._is_wanted(row.row):
            values = self._through_the_cache(row, values)
        else:
            self._spoil(row.places[row.row.start :])
        sampled = Sampled(self.sample(values, row.end), score(values[-1]))
        return Result(sampled if row.row.samples else None, self._prompt_scores(row, values))

    def _spoil(self, places: list[tuple[int, int]]) -> None:
        self._kv.update(dict.fromkeys(places, OF_NO_USE))

    def _is_wanted(self, row: Row) -> bool:
        """Whether the row is to count: as the ledger decides it when the step is read."""
        word = self._ledger.word(row.slot)
        is_ours = (word.holder, word.generation) == (self._instance, row.generation)
        return is_ours and self._ledger.info(row.slot).finish_reason is FinishReason.NONE

    def _through_the_cache(self, row: ToyRow, values: list[int]) -> list[int]:
        """Checks the KV that the row reads, and keeps what it computes."""
        start = row.row.start
        for place, value in zip(row.places[:start], values, strict=False):
            assert self._kv.get(place) == value, f"slot {row.row.slot} reads another's KV"
        self._kv.update(zip(row.places[start:], values[start:], strict=True))
        return values

    def _prompt_scores(self, row: ToyRow, values: list[int]) -> tuple[Scores, ...]:
        """Of the prompt's tokens after the row's positions, where its request asks for them."""
        if not row.num_scored:
            return ()
        first, end = row.row.start + 1, min(row.end + 1, row.num_scored)
        scores = np.array([score(value) for value in values[first - 1 : end - 1]], np.float32)
        nothing = np.empty((len(scores), 0))
        return (Scores(first, scores, nothing.astype(np.int32), nothing.astype(np.float32)),)

    def _params(self, slot: int) -> SlotParams:
        return msgspec.msgpack.decode(self._ledger.params(slot), type=SlotParams)

    def sample(self, values: list[int], end: int) -> int:
        """The token after the first `end`, whose KV is `values`."""
        return next_token(values[-1])
