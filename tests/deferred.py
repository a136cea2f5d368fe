"""The CPU's executor made to behave as a GPU at its laziest: nothing runs before somebody waits.

What is launched goes into a queue, as on a stream, and is worked off in order when a result is
read, and no further than that. So a test on a CPU sees what two steps in flight see on a GPU: token
ids that are not on the host, and KV that is written long after its step was launched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pdrt._C import Ledger
from pdrt.model.batch import Batch
from pdrt.model.spec import ModelSpec
from pdrt.runner.batch import blank_batch
from pdrt.runner.executor import Draw, Executor, fed
from pdrt.runner.logits import Context
from pdrt.runner.runner import Runner

MAX_ROWS = 64


def deferred(runner: Runner, spec: ModelSpec, ledger: Ledger) -> Runner:
    """A runner whose steps are computed by the other's executor, when they are read."""
    return Runner(DeferredExecutor(runner._executor, spec.hidden_size), spec, ledger)


class DeferredDrawing:
    """What is drawn when the queue is worked off that far."""

    def __init__(self, wait: Callable[[DeferredDrawing], None]) -> None:
        self.draws: list[Draw] | None = None
        self._wait = wait

    def read(self) -> list[Draw]:
        self._wait(self)
        assert self.draws is not None
        return self.draws


class DeferredExecutor:
    """Defers what `inner` computes."""

    depth = 2
    blank = staticmethod(blank_batch)  # new each time: the step before may not be computed yet

    def __init__(self, inner: Executor, hidden_size: int) -> None:
        self._inner = inner
        self._hidden_size = hidden_size
        self._stream: deque[Callable[[], None]] = deque()
        self._drawn = torch.zeros(MAX_ROWS, dtype=torch.int32)

    def warm_up(self) -> None:
        self._inner.warm_up()

    def copy_page(self, source: int, destination: int, num_tokens: int) -> bool:
        """At once, before what was launched: no step in flight writes what is copied, or there."""
        return self._inner.copy_page(source, destination, num_tokens)

    def forward(self, batch: Batch) -> Tensor:
        hidden = torch.empty(len(batch.wanted), self._hidden_size)

        def compute() -> None:
            known = replace(batch, input_ids=fed(batch.input_ids, self._drawn))
            hidden.copy_(self._inner.forward(known))

        self._stream.append(compute)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Of prompts that are scored, which is waited for on a GPU as well."""
        while self._stream:
            self._stream.popleft()()
        return self._inner.logits(hidden)

    def draw(
        self, hidden: Tensor, contexts: Sequence[Context], eos_token_ids: Collection[int]
    ) -> DeferredDrawing:
        drawing = DeferredDrawing(self._work_off)

        def compute() -> None:
            drawing.draws = self._inner.draw(hidden, contexts, eos_token_ids).read()
            tokens = [sampled.token for sampled, _ in drawing.draws]
            self._drawn[: len(tokens)] = torch.tensor(tokens, dtype=torch.int32)

        self._stream.append(compute)
        return drawing

    def _work_off(self, drawing: DeferredDrawing) -> None:
        while drawing.draws is None:
            self._stream.popleft()()
