"""Runs plans: ledger -> tensors -> decoder -> sampler. One for each worker; knows no phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from pdrt._C import Ledger, Memory
from pdrt.kernels import cpu
from pdrt.kv.pool import kv_pool
from pdrt.kv.shape import KVShape
from pdrt.model.checkpoint import read_spec
from pdrt.model.decoder import Decoder
from pdrt.model.layout import WeightDType, weight_layout
from pdrt.model.spec import ModelSpec
from pdrt.model.weights import map_weights
from pdrt.runner.batch import make_batch
from pdrt.runner.logits import Context, reads_tokens
from pdrt.runner.sampler import sample
from pdrt.runner.scores import score
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
        decoder: Decoder,
        spec: ModelSpec,
        pool: Tensor,
        ledger: Ledger,
        on_layer: Callable[[], None],
    ) -> None:
        self.eos_token_ids = spec.eos_token_ids
        self._decoder = decoder
        self._pool = pool
        self._ledger = ledger
        self._on_layer = on_layer
        self._params: dict[int, tuple[int, SlotParams]] = {}  # slot -> its generation and params

    @staticmethod
    def create(
        folder: Path,
        dtype: WeightDType,
        *,
        weights: Memory,
        kv: Memory,
        ledger: Ledger,
        threads: int,
        on_layer: Callable[[], None],
    ) -> Runner:
        """Maps the weights and the pool that others made, for the checkpoint in `folder`.

        Args:
            threads: of torch's operations, for the whole process.
        """
        torch.set_num_threads(threads)
        spec = read_spec(folder)
        tensors = map_weights(weights, weight_layout(spec, dtype))
        shape = KVShape(spec.num_layers, spec.num_kv_heads, ledger.page_size, spec.head_dim, dtype)
        pool = kv_pool(kv, shape, ledger.num_pages)
        decoder = Decoder(spec, tensors, cpu, ledger.max_model_len)
        return Runner(decoder, spec, pool, ledger, on_layer)

    def run(self, plan: Plan) -> list[Result]:
        """Computes one step; a result for each row."""
        asks = [self._ask(row) for row in plan.rows]
        num_wanted = [ask.num_wanted for ask in asks]
        batch = make_batch(plan, self._ledger, num_wanted)
        hidden = torch.split(self._decoder.forward(batch, self._pool, self._on_layer), num_wanted)
        drawn = iter(self._draw(asks, hidden))
        results = []
        for ask, part in zip(asks, hidden, strict=True):
            sampled, rivals = next(drawn) if ask.row.samples else (None, ())
            results.append(Result(sampled, self._score_prompt(ask, part) + rivals))
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
        logits = self._decoder.logits(torch.cat(last)).numpy()
        tokens = sample(logits, [self._context(ask) for ask in drawing], self.eos_token_ids)
        for ask, sampled, row_logits in zip(drawing, tokens, logits, strict=True):
            rivals: tuple[Scores, ...] = ()
            if ask.params.logprobs > 0:
                token = np.array([sampled.token], np.int32)
                rivals = (score(row_logits[None], token, ask.row.end, ask.params.logprobs),)
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
            logits = self._decoder.logits(hidden[i : i + len(block)]).numpy()
            scores.append(score(logits, block, first + i, ask.params.prompt_logprobs))
        return tuple(scores)
