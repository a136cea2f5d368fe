"""Runs plans: ledger -> tensors -> decoder -> sampler. One for each worker; knows no phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from pdrt._C import Ledger
from pdrt.kv.pool import kv_pool
from pdrt.kv.shape import KVShape, SharedMemory
from pdrt.messages import Role
from pdrt.model.checkpoint import read_spec
from pdrt.model.layout import WeightFormat, weight_layout
from pdrt.model.spec import ModelSpec
from pdrt.model.weights import map_weights
from pdrt.runner.batch import make_batch
from pdrt.runner.executor import Drawing, Executor
from pdrt.runner.executors import make_executor
from pdrt.runner.logits import Context
from pdrt.runner.scores import score
from pdrt.runner.shape import ServerShape
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Key, Plan, Result, Row, Scores

SCORED_AT_ONCE = 64  # prompt tokens whose logits are in memory together: 13 MB of phi-2


class _Ask(msgspec.Struct, frozen=True):
    """A row, and what its request wants of it."""

    row: Row
    params: SlotParams
    scores_prompt: bool

    @property
    def num_wanted(self) -> int:
        """How many of the row's last tokens are to have logits."""
        return self.row.num_tokens if self.scores_prompt else int(self.row.samples)


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way. `scores`: of each row, what the model thought of its prompt."""

    plan: Plan
    scores: Sequence[tuple[Scores, ...]]
    drawing: Drawing

    def read(self) -> list[Result]:
        """Waits until it is computed; a result for each row."""
        draws = iter(self.drawing.read())
        results = []
        for row, scores in zip(self.plan.rows, self.scores, strict=True):
            sampled, rivals = next(draws) if row.samples else (None, ())
            results.append(Result(sampled, scores + rivals))
        return results


class Runner:
    """Computes the steps of one worker.

    Attributes:
        eos_token_ids: tokens that end a request of this model.
    """

    def __init__(
        self,
        executor: Executor,
        spec: ModelSpec,
        ledger: Ledger,
    ) -> None:
        self.eos_token_ids = spec.eos_token_ids
        self._executor = executor
        self._ledger = ledger
        self._params: dict[int, tuple[int, SlotParams]] = {}  # slot -> its generation and params
        self._drawing: dict[Key, int] = {}  # which of the last launch's draws each row has

    @staticmethod
    def create(
        folder: Path,
        form: WeightFormat,
        *,
        weights: SharedMemory,
        kv: SharedMemory,
        ledger: Ledger,
        threads: int,
        on_layer: Callable[[], None],
        shape: ServerShape,
    ) -> Runner:
        """Maps the weights and the pool that others made, for the checkpoint in `folder`.

        Where they are decides what computes: the CPU, or a GPU.

        Args:
            threads: of torch's operations, for the whole process.
            on_layer: says that a step goes on; called after each layer, on a GPU after each launch.
        """
        torch.set_num_threads(threads)
        spec = read_spec(folder)
        page = KVShape(
            spec.num_layers, spec.num_kv_heads, ledger.page_size, spec.head_dim, form.dtype
        )
        pool = kv_pool(kv, page, ledger.num_pages)
        tensors = map_weights(weights, weight_layout(spec, form))
        return Runner(make_executor(spec, tensors, pool, shape, on_layer), spec, ledger)

    def warm_up(self, role: Role) -> None:
        """What is to be done once before the first step: on a GPU, kernels and graphs."""
        self._executor.warm_up(role)

    def copy_page(self, source: int, destination: int, num_tokens: int) -> bool:
        """Copies the KV of a page's first tokens; False where computing them takes less."""
        return self._executor.copy_page(source, destination, num_tokens)

    @property
    def depth(self) -> int:
        """How many steps may be in flight: launched, and not read."""
        return self._executor.depth

    def launch(self, plan: Plan) -> Launched:
        """Starts to compute a step, on a GPU without waiting for anything but prompt scores."""
        asks = [self._ask(row) for row in plan.rows]
        num_wanted = [ask.num_wanted for ask in asks]
        batch = make_batch(plan, self._ledger, num_wanted, self._drawing, self._executor.blank)
        hidden = self._executor.forward(batch)
        scores, hidden = self._score_prompts(asks, hidden)
        drawing = [ask for ask in asks if ask.row.samples]
        contexts = [self._context(ask) for ask in drawing]
        drawn = self._executor.draw(hidden, contexts, self.eos_token_ids)
        self._drawing = {ask.row.key: i for i, ask in enumerate(drawing)}
        return Launched(plan, scores, drawn)

    def _ask(self, row: Row) -> _Ask:
        params = self._params_of(row)
        # Once there is output, the scores of the prompt are in the slot: nothing is done again. Nor
        # is there a token of the prompt behind its last one.
        scores_prompt = (
            params.prompt_logprobs >= 0
            and not (row.samples and row.num_tokens == 1)
            and self._ledger.info(row.slot).num_output_tokens == 0
        )
        return _Ask(row, params, scores_prompt)

    def _params_of(self, row: Row) -> SlotParams:
        generation, params = self._params.get(row.slot, (None, None))
        if params is None or generation != row.generation:
            params = msgspec.msgpack.decode(self._ledger.params(row.slot), type=SlotParams)
            self._params[row.slot] = (row.generation, params)
        return params

    def _context(self, ask: _Ask) -> Context:
        row = ask.row
        if not ask.params.reads_tokens:
            return Context(ask.params, row.end)
        tokens = self._ledger.tokens(row.slot, 0, row.end)
        return Context(ask.params, row.end, tokens, self._ledger.info(row.slot).num_prompt_tokens)

    def _score_prompts(
        self, asks: Sequence[_Ask], hidden: Tensor
    ) -> tuple[list[tuple[Scores, ...]], Tensor]:
        """From what the rows wanted: the scores of each, and where a token is sampled after.

        The latter is [n, hidden_size].
        """
        if not any(ask.scores_prompt for ask in asks):
            return [()] * len(asks), hidden  # nothing else was wanted
        parts = hidden.split([ask.num_wanted for ask in asks])
        scores = [self._score_prompt(*each) for each in zip(asks, parts, strict=True)]
        last = [part[-1:] for ask, part in zip(asks, parts, strict=True) if ask.row.samples]
        return scores, torch.cat([hidden[:0], *last])

    def _score_prompt(self, ask: _Ask, hidden: Tensor) -> tuple[Scores, ...]:
        """Of the tokens after each that the row computed, as far as they are the prompt's."""
        if not ask.scores_prompt:
            return ()
        first = ask.row.start + 1
        tokens = self._ledger.tokens(ask.row.slot, first, ask.row.end + (not ask.row.samples))
        scores = []
        for i in range(0, len(tokens), SCORED_AT_ONCE):
            block = tokens[i : i + SCORED_AT_ONCE]
            logits = self._executor.logits(hidden[i : i + len(block)]).cpu().numpy()
            scores.append(score(logits, block, first + i, ask.params.prompt_logprobs))
        return tuple(scores)
