"""Runs plans: ledger -> tensors -> decoder -> sampler. One for each worker; knows no phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from pdrt._C import Ledger
from pdrt.kv.pool import kv_pool
from pdrt.kv.shape import KVShape, SharedMemory
from pdrt.messages import Role
from pdrt.model.checkpoint import read_spec
from pdrt.model.layout import WeightDType, weight_layout
from pdrt.model.spec import ModelSpec
from pdrt.model.weights import map_weights
from pdrt.runner.batch import make_batch
from pdrt.runner.executor import Executor
from pdrt.runner.executors import make_executor
from pdrt.runner.logits import Context, reads_tokens
from pdrt.runner.scores import score
from pdrt.runner.shape import ServerShape
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Plan, Result, Row, Sampled, Scores

SCORED_AT_ONCE = 64  # prompt tokens whose logits are in memory together: 13 MB of phi-2


@dataclass(frozen=True, slots=True)
class _Ask:
    """A row, and what its request wants of it."""

    row: Row
    params: SlotParams
    scores_prompt: bool

    @property
    def num_wanted(self) -> int:
        """How many of the row's last tokens are to have logits."""
        return self.row.num_tokens if self.scores_prompt else int(self.row.samples)


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

    @staticmethod
    def create(
        folder: Path,
        dtype: WeightDType,
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
        page = KVShape(spec.num_layers, spec.num_kv_heads, ledger.page_size, spec.head_dim, dtype)
        pool = kv_pool(kv, page, ledger.num_pages)
        tensors = map_weights(weights, weight_layout(spec, dtype, pool.device.type))
        return Runner(make_executor(spec, tensors, pool, shape, on_layer), spec, ledger)

    def warm_up(self, role: Role) -> None:
        """What is to be done once before the first step: on a GPU, kernels and graphs."""
        self._executor.warm_up(role)

    def run(self, plan: Plan) -> list[Result]:
        """Computes one step; a result for each row."""
        asks = [self._ask(row) for row in plan.rows]
        num_wanted = [ask.num_wanted for ask in asks]
        batch = make_batch(plan, self._ledger, num_wanted)
        hidden = torch.split(self._executor.forward(batch), num_wanted)
        drawn = iter(self._draw(asks, hidden))
        results = []
        for ask, part in zip(asks, hidden, strict=True):
            sampled, rivals = next(drawn) if ask.row.samples else (None, ())
            results.append(Result(sampled, self._score_prompt(ask, part) + rivals))
        self._executor.wait()  # also where no row sampled, and nobody has waited for the device
        return results

    def _ask(self, row: Row) -> _Ask:
        params = self._params_of(row)
        # Once there is output, the scores of the prompt are in the slot: nothing is done again.
        scores_prompt = (
            params.prompt_logprobs >= 0 and self._ledger.info(row.slot).num_output_tokens == 0
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
        if not reads_tokens(ask.params):
            return Context(ask.params, row.end)
        tokens = self._ledger.tokens(row.slot, 0, row.end)
        return Context(ask.params, row.end, tokens, self._ledger.info(row.slot).num_prompt_tokens)

    def _draw(
        self, asks: Sequence[_Ask], hidden: Sequence[Tensor]
    ) -> Iterator[tuple[Sampled, tuple[Scores, ...]]]:
        """Of each row that samples, its token, and the likeliest in its place where it wants them.

        Args:
            hidden: of each row, [num_wanted, hidden_size].
        """
        drawing = [ask for ask in asks if ask.row.samples]
        if not drawing:
            return
        last = [part[-1:] for ask, part in zip(asks, hidden, strict=True) if ask.row.samples]
        logits = self._executor.logits(torch.cat(last))
        contexts = [self._context(ask) for ask in drawing]
        tokens = self._executor.sample(logits, contexts, self.eos_token_ids)
        for ask, sampled, row_logits in zip(drawing, tokens, logits, strict=True):
            rivals: tuple[Scores, ...] = ()
            if ask.params.logprobs > 0:
                token = np.array([sampled.token], np.int32)
                row = row_logits[None].cpu().numpy()
                rivals = (score(row, token, ask.row.end, ask.params.logprobs),)
            yield sampled, rivals

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
