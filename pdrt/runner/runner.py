"""Runs plans: ledger -> tensors -> decoder -> sampler. One for each worker; knows no phase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
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
from pdrt.runner.sampler import sample
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Plan, Row, Sampled


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
        return Runner(Decoder(spec, tensors, cpu), spec, pool, ledger, on_layer)

    def run(self, plan: Plan) -> list[Sampled | None]:
        """Computes one step; a result for each row, None where it does not sample."""
        hidden = self._decoder.forward(make_batch(plan, self._ledger), self._pool, self._on_layer)
        sampled = iter(self._sample([row for row in plan.rows if row.samples], hidden))
        return [next(sampled) if row.samples else None for row in plan.rows]

    def _sample(self, rows: list[Row], hidden: Tensor) -> list[Sampled]:
        if not rows:
            return []
        logits = self._decoder.logits(hidden).numpy()
        return sample(logits, [self._params_of(row) for row in rows], [row.end for row in rows])

    def _params_of(self, row: Row) -> SlotParams:
        generation, params = self._params.get(row.slot, (None, None))
        if params is None or generation != row.generation:
            params = msgspec.msgpack.decode(self._ledger.params(row.slot), type=SlotParams)
            self._params[row.slot] = (row.generation, params)
        return params
