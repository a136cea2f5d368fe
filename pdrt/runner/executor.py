"""How a step's forward pass runs: on this CPU here, on a GPU in pdrt.runner.gpu."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from torch import Tensor

from pdrt.messages import Role
from pdrt.model.batch import Batch
from pdrt.model.decoder import Decoder
from pdrt.runner.logits import Context
from pdrt.runner.sampler import sample
from pdrt.sched.plan import Sampled


class Executor(Protocol):
    """One decoder on one device, with the KV pool that it writes and reads.

    Attributes:
        graph_bytes: of device memory, held for the graphs that `warm_up` captured.
    """

    graph_bytes: int

    def warm_up(self, role: Role) -> None:
        """Once, before the first step."""

    def forward(self, batch: Batch) -> Tensor:
        """Computes a step whose tensors are on the CPU.

        Returns:
            [num_wanted, hidden_size], normed, on the device.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, hidden_size] -> [n, vocab_size] float32, on the device."""

    def sample(
        self, logits: Tensor, contexts: Sequence[Context], eos_token_ids: Collection[int]
    ) -> list[Sampled]:
        """The next token of each row; docs/sampling.md."""

    def wait(self) -> None:
        """Returns when all that was started is computed: other processes read its KV from then."""


class CpuExecutor:
    """Layer by layer. `on_layer` is called after each, and says that the step goes on."""

    def __init__(self, decoder: Decoder, pool: Tensor, on_layer: Callable[[], None]) -> None:
        self._decoder = decoder
        self._pool = pool
        self._on_layer = on_layer
        self.graph_bytes = 0

    def warm_up(self, role: Role) -> None:
        """Nothing is compiled or captured here."""

    def forward(self, batch: Batch) -> Tensor:
        return self._decoder.forward(batch, self._pool, self._on_layer)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._decoder.logits(hidden)

    def sample(
        self, logits: Tensor, contexts: Sequence[Context], eos_token_ids: Collection[int]
    ) -> list[Sampled]:
        return sample(logits.numpy(), contexts, eos_token_ids)

    def wait(self) -> None:
        """What was started has been computed when it returns."""
