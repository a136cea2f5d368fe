"""Decode steps on the CPU, from tapes: the calls of all layers, recorded once.

    batch -> tensors that stay -> embedding -> tapes, each of a few layers, the last with the norm
    how each token is chosen -> arrays that stay -> tape of the head and the draw

The counterpart of pdrt.runner.graphs. One tape serves any number of rows, since the number is said
when it is replayed. What a layer makes on its way is written to the same tensors in each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdrt._C import StepTape
from pdrt.kernels import cpu
from pdrt.kernels.cpu_draw import DRAWN, ROW, draw
from pdrt.kernels.cpu_linear import PackedLinear
from pdrt.model.batch import Batch
from pdrt.model.decoder import Decoder
from pdrt.model.weights import Weight
from pdrt.runner.static_batch import first_rows, is_decode, load, padding_batch

# So often a step looks at which cores are lent: every millisecond with few rows, and with many no
# more seldom than prefill does.
LAYERS_OF_A_TAPE = 4


@dataclass(frozen=True, slots=True)
class _Rows:
    """What a step of so many rows is read from and written to: views of what the tapes know."""

    batch: Batch
    residual: Tensor
    normed: Tensor


class DecodeTapes:
    """Runs decode steps of up to `max_rows` rows.

    Args:
        on_tape: called after each; says that the step goes on.

    Attributes:
        tapes: calling `replay(num_rows)` of one after the other computes all layers.
        head: what follows them, where tokens are chosen from the model's own logits.
    """

    def __init__(
        self,
        decoder: Decoder,
        kv_layers: Sequence[Tensor],
        max_rows: int,
        max_pages: int,
        on_tape: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._on_tape = on_tape
        self._static = padding_batch(max_rows, max_pages, torch.device("cpu"))
        self._residual = torch.empty_like(decoder.embed(self._static.input_ids))
        self._kernels = _Kernels()
        self._page_size = kv_layers[0].shape[3]
        self._rows: dict[int, _Rows] = {}
        layers = list(enumerate(kv_layers))
        starts = range(0, len(layers), LAYERS_OF_A_TAPE)
        self._normed: Tensor  # what the last tape ends with
        self.tapes = [self._record(layers[i : i + LAYERS_OF_A_TAPE]) for i in starts]
        self.head = HeadTape(decoder, self._normed)

    @property
    def max_rows(self) -> int:
        return len(self._residual)

    def rows(self, num_rows: int) -> Batch:
        """The tensors that tapes read a decode step from; written there, it need not be copied."""
        return self._views(num_rows).batch

    def fits(self, batch: Batch) -> bool:
        """Whether it is a decode step of so many rows at most."""
        return is_decode(batch, self.max_rows)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """[num_rows, hidden_size] of a decode step, normed; valid until the next one.

        Raises:
            ValueError: a row is longer than its pages, or has one that is not in the pool.
        """
        num_rows = len(batch.seq_lens)
        rows = self._views(num_rows)
        if batch is not rows.batch:
            self._check_lengths(batch)
            load(self._static, batch, num_rows)
        rows.residual.copy_(self._decoder.embed(rows.batch.input_ids))
        for tape in self.tapes:
            tape.replay(num_rows)
            self._on_tape()
        return rows.normed

    def _views(self, num_rows: int) -> _Rows:
        if num_rows not in self._rows:
            self._rows[num_rows] = _Rows(
                first_rows(self._static, num_rows),
                self._residual[:num_rows],
                self._normed[:num_rows],
            )
        return self._rows[num_rows]

    def _check_lengths(self, batch: Batch) -> None:
        """Behind a row's pages tapes would find those of steps before."""
        num_pages = batch.page_table.shape[1]
        longest, room = int(batch.seq_lens.max()), num_pages * self._page_size
        if longest > room:
            raise ValueError(f"a row has {longest} tokens, and its {num_pages} pages hold {room}")

    def _record(self, layers: Sequence[tuple[int, Tensor]]) -> StepTape:
        """Writes down the calls of these layers for the most rows. Nothing is computed."""
        decoder = self._decoder.with_kernels(self._kernels)
        with _recorded() as tape:
            for index, kv_layer in layers:
                self._kernels.begin_layer()
                decoder.layer(index, self._residual, self._static, kv_layer)
            if layers[-1][0] == decoder.num_layers - 1:
                self._normed = decoder.normed(self._residual)
        return tape


class HeadTape:
    """Logits of what the last tape wrote, and the draw from them.

    Between the two is no Python, so the threads that computed the logits are still awake.
    """

    def __init__(self, decoder: Decoder, normed: Tensor) -> None:
        self._normed = normed
        self._rows = np.zeros(len(normed), ROW)
        self._drawn = np.empty(len(normed), DRAWN)
        with _recorded() as self.tape:
            self._logits: NDArray[np.float32] = decoder.logits(normed).numpy()
            draw(self._logits, self._rows, self._drawn)

    def fits(self, hidden: Tensor) -> bool:
        """Whether these are the first rows of what the last tape wrote."""
        return hidden.data_ptr() == self._normed.data_ptr()

    def draw(self, rows: Sequence[tuple[Any, ...]]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """[n, vocab_size] logits and [n] DRAWN of n rows of ROW; valid until the next draw."""
        count = len(rows)
        self._rows[:count] = rows
        self.tape.replay(count)
        return self._logits[:count], self._drawn[:count]


@contextmanager
def _recorded() -> Iterator[StepTape]:
    """Writes down the kernels that are called within, and computes none."""
    tape = StepTape()
    tape.start()
    try:
        yield tape
    finally:
        tape.stop()


def _with_result_like_first(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method of _Kernels, for a kernel whose result is as its first argument."""

    def call(self: _Kernels, x: Tensor, *others: Any, **options: Any) -> Tensor:
        return kernel(x, *others, **options, out=self.result(x.shape, x.dtype))

    return call


class _Kernels:
    """The CPU's kernels; the n-th call of every layer has the same tensor for its result."""

    paged_attention = _with_result_like_first(cpu.paged_attention)
    rms_norm = _with_result_like_first(cpu.rms_norm)
    layer_norm = _with_result_like_first(cpu.layer_norm)
    rope_kv_write = staticmethod(cpu.rope_kv_write)
    embedding = staticmethod(cpu.embedding)

    def __init__(self) -> None:
        self._results: dict[tuple[object, ...], Tensor] = {}
        self._num_calls = 0

    def begin_layer(self) -> None:
        self._num_calls = 0

    def linear(
        self,
        x: Tensor,
        weight: Weight,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        activation: str | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(weight, PackedLinear)
        if out is None:
            out = self.result((len(x), weight.out_size), weight.dtype)
        return cpu.linear(x, weight, bias, residual, activation, out)

    def result(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        self._num_calls += 1
        key = self._num_calls, tuple(shape), dtype
        if key not in self._results:
            self._results[key] = torch.empty(shape, dtype=dtype)
        return self._results[key]
