"""One worker in this process, with a ledger of its own: what a step costs without messages.

The same Worker, schedulers and ledger that run in the worker processes, in unified mode; a front
end is what the benches do here themselves: claim a slot, tell the scheduler, free it in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from pdrt._C import Holder, Ledger
from pdrt.messages import Admit
from pdrt.runner.shape import ServerShape
from pdrt.sampling_params import SlotParams
from pdrt.sched.decode import DecodeScheduler
from pdrt.sched.prefill import PrefillScheduler
from pdrt.worker.decode_worker import DecodePhase
from pdrt.worker.prefill_worker import PrefillPhase
from pdrt.worker.worker import Phase, Runner, Worker

INSTANCE = 1 << 8
GREEDY = SlotParams(0.0, 1.0, 0, 0, True)  # and no end-of-sequence token ends it


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the ledger and the steps, in requests and tokens."""

    num_seqs: int
    max_model_len: int
    budget: int
    page_size: int = 16

    @property
    def num_pages(self) -> int:
        return self.num_seqs * self.server_shape.max_pages

    @property
    def server_shape(self) -> ServerShape:
        return ServerShape(self.num_seqs, self.budget, self.max_model_len, self.page_size)


def make_ledger(sizes: Sizes) -> Ledger:
    return Ledger.create(
        num_pages=sizes.num_pages,
        page_size=sizes.page_size,
        num_slots=sizes.num_seqs,
        max_model_len=sizes.max_model_len,
        sealed_bound=sizes.num_seqs,
    )


def copies_nothing(source: int, destination: int, num_tokens: int) -> bool:
    """A step is measured with all that its prompts take."""
    return False


class InProcessWorker:
    """A worker that is driven turn by turn.

    Args:
        watch: given ("settle and plan", scheduler) and the like; returns what takes its place.
    """

    def __init__(
        self, ledger: Ledger, holder: Holder, runner: Runner, sizes: Sizes, watch: Any = None
    ) -> None:
        watch = watch or (lambda name, target: target)
        self.ledger = ledger
        self._generations: dict[int, int] = {}
        decode = DecodeScheduler(ledger, holder, sizes.num_seqs)
        prefill = PrefillScheduler(ledger, holder, sizes.num_seqs, copies_nothing)
        phases: list[Phase] = [
            DecodePhase(watch("decode", decode)),
            PrefillPhase(watch("prefill", prefill), on_sealed=decode.tell),
        ]
        self.worker = Worker(watch("ledger", holder), runner, phases, sizes.budget, ())

    def submit(self, prompt: Sequence[int], max_tokens: int) -> int:
        """Claims a slot for a prompt and tells the worker; the slot."""
        params = msgspec.msgpack.encode(GREEDY)
        rank = len(self._generations)
        claimed = self.ledger.claim(
            rank + 1, rank + 1, np.asarray(prompt, np.int32), max_tokens, params
        )
        assert claimed is not None, "the ledger has a slot for each of its requests"
        slot, generation = claimed
        self._generations[slot] = generation
        self.worker.hear(Admit(slot, generation))
        return slot

    def num_output_tokens(self, slot: int) -> int:
        return self.ledger.info(slot).num_output_tokens
