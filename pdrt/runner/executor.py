"""How a step is computed: on this CPU here, on a GPU in pdrt.runner.gpu.

    forward -> draw -> read

A device computes in the order of the calls. `forward` and `draw` may return before it has; only
who reads what was drawn waits for it. So a step can be launched while the one before is computed:
where a token id is not on the host yet, the batch says which draw it comes from, and the device
puts it in (`fed`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pdrt.kv.pool import copy_tokens
from pdrt.messages import Role
from pdrt.model.batch import Batch
from pdrt.model.decoder import Decoder
from pdrt.runner.batch import blank_batch
from pdrt.runner.logits import Context
from pdrt.runner.sampler import plain_rows, sample, sampled
from pdrt.runner.scores import score
from pdrt.runner.shape import ServerShape
from pdrt.runner.tapes import DecodeTapes
from pdrt.sched.plan import Sampled, Scores

# A row's token, and where its request wants them the likeliest in its place.
Draw = tuple[Sampled, tuple[Scores, ...]]


class Drawing(Protocol):
    """Tokens that are being sampled."""

    def read(self) -> list[Draw]:
        """Waits until they are, and all KV of their step is written: other processes read it."""


class Executor(Protocol):
    """One decoder on one device, with the KV pool that it writes and reads.

    Attributes:
        depth: how many steps may be launched and not read.
        graph_bytes: of device memory, held for the graphs that `warm_up` captured.
    """

    graph_bytes: int

    @property
    def depth(self) -> int: ...

    def warm_up(self, role: Role) -> None:
        """Once, before the first step."""

    def blank(self, num_tokens: int, num_rows: int, num_wanted: int, num_pages: int) -> Batch:
        """Room for the batch of the next step, on the CPU, with num_pages columns or more.

        It may be that of the step before.
        """

    def forward(self, batch: Batch) -> Tensor:
        """Computes a step whose tensors are on the CPU.

        Args:
            batch: an input id of ~i, which is negative, is the token that row i of the last `draw`
                sampled; there are none where depth is 1.

        Returns:
            [num_wanted, hidden_size], normed, on the device.
        """

    def copy_page(self, source: int, destination: int, num_tokens: int) -> bool:
        """Copies the KV of a page's first tokens, of all layers, and returns when it is there.

        Pages are the pool's. False, and nothing is copied, where computing them takes less.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, hidden_size] -> [n, vocab_size] float32, on the device."""

    def draw(
        self, hidden: Tensor, contexts: Sequence[Context], eos_token_ids: Collection[int]
    ) -> Drawing:
        """Samples the next token of each row of [n, hidden_size], n may be 0; docs/sampling.md."""


class CpuExecutor:
    """Layer by layer. `on_layer` is called after one or a few, and says that the step goes on.

    A step is computed when its launch returns, so that two in flight would gain nothing.

    Attributes:
        tapes: of decode steps, after `warm_up`.
    """

    depth = 1

    def __init__(
        self, decoder: Decoder, pool: Tensor, shape: ServerShape, on_layer: Callable[[], None]
    ) -> None:
        self._decoder = decoder
        self._pool = pool
        self._kv_layers = pool.unbind(1)
        self._shape = shape
        self._on_layer = on_layer
        self.tapes: DecodeTapes | None = None
        self.graph_bytes = 0

    def warm_up(self, role: Role) -> None:
        """Records the decode steps of a role that has them; computes nothing."""
        if role != "prefill":
            rows, pages = self._shape.max_num_seqs, self._shape.max_pages
            self.tapes = DecodeTapes(self._decoder, self._kv_layers, rows, pages, self._on_layer)

    def blank(self, num_tokens: int, num_rows: int, num_wanted: int, num_pages: int) -> Batch:
        if self.tapes is not None and num_tokens == num_rows == num_wanted <= self.tapes.max_rows:
            return self.tapes.rows(num_rows)
        return blank_batch(num_tokens, num_rows, num_wanted, num_pages)

    def forward(self, batch: Batch) -> Tensor:
        if self.tapes is not None and self.tapes.fits(batch):
            return self.tapes.run(batch)
        return self._decoder.forward(batch, self._kv_layers, self._on_layer)

    def copy_page(self, source: int, destination: int, num_tokens: int) -> bool:
        copy_tokens(self._pool, source, destination, num_tokens)
        return True

    def logits(self, hidden: Tensor) -> Tensor:
        return self._decoder.logits(hidden)

    def draw(
        self, hidden: Tensor, contexts: Sequence[Context], eos_token_ids: Collection[int]
    ) -> Drawn:
        if not contexts:
            return Drawn([])
        head = self.tapes.head if self.tapes is not None else None
        plain = plain_rows(contexts) if head is not None and head.fits(hidden) else None
        if head is not None and plain is not None:
            logits, drawn = head.draw(plain)
            tokens = sampled(drawn)
        else:
            logits = self.logits(hidden).numpy()
            tokens = sample(logits, contexts, eos_token_ids)
        rows = zip(tokens, logits, contexts, strict=True)
        return Drawn([(token, _rivals(row, token, context)) for token, row, context in rows])


class Drawn:
    """Tokens that were sampled already."""

    def __init__(self, draws: list[Draw]) -> None:
        self._draws = draws

    def read(self) -> list[Draw]:
        return self._draws


def fed(input_ids: Tensor, drawn: Tensor) -> Tensor:
    """Input ids with those that the host does not know put in, without waiting for them.

    Args:
        input_ids: [num_tokens] int32, ~i for the i-th of `drawn`.
        drawn: [n] int32, tokens that the last step sampled; n may be larger.
    """
    return torch.where(input_ids < 0, drawn.index_select(0, (~input_ids).clamp(min=0)), input_ids)


def _rivals(logits: np.ndarray, sampled: Sampled, context: Context) -> tuple[Scores, ...]:
    """The likeliest in the place of a token, for a request that wants them."""
    num_top = context.params.logprobs
    if num_top < 1:
        return ()
    token = np.array([sampled.token], np.int32)
    return (score(logits[None], token, context.position, num_top),)
