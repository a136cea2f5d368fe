"""CUDA graphs of decode steps: one for each bucket of rows, captured once, replayed for each step.

A graph's launches and addresses are fixed, so a step is copied into tensors that stay, and filled
up to its bucket with rows that read and write nothing: length 0, slot -1. All graphs share these
tensors and one pool of intermediate memory, the largest bucket first, so that the smaller ones fit
into what it took.
"""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from pdrt.model.batch import Batch
from pdrt.runner.static_batch import first_rows, is_decode, load, padding_batch


def buckets(max_rows: int) -> list[int]:
    """Numbers of rows with a graph of their own: 1, 2, 4, 8, 16, then each 16 more."""
    small = [n for n in (1, 2, 4, 8) if n < max_rows]
    return [*small, *range(16, max_rows, 16), max_rows]


class DecodeGraphs:
    """Runs decode steps of up to `max_rows` rows.

    Args:
        step: computes a batch whose tensors are on the device, without waiting for it.
    """

    def __init__(
        self,
        step: Callable[[Batch], Tensor],
        max_rows: int,
        max_pages: int,
        device: torch.device,
    ) -> None:
        self._step = step
        self._device = device
        self._buckets = buckets(max_rows)
        self._static = padding_batch(max_rows, max_pages, device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def capture(self) -> None:
        """Before the first step, once; takes seconds, mostly for kernels that are compiled."""
        gc.collect()  # a graph of another executor that is freed during a capture would break it
        memory = torch.cuda.graph_pool_handle()
        with torch.cuda.device(self._device):
            for size in tqdm(self._buckets[::-1], desc="decode graphs", unit="graph"):
                batch = first_rows(self._static, size)
                self._step(batch)  # once outside: kernels are compiled, libraries allocate
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=memory):
                    hidden = self._step(batch)
                graph.replay()  # the first one uploads it, which no request should wait for
                self._graphs[size] = graph, hidden
            torch.cuda.synchronize()

    def fits(self, batch: Batch) -> bool:
        """Whether there is a graph for it: one new token a row, whose logits are wanted."""
        return is_decode(batch, self._buckets[-1])

    def run(self, batch: Batch) -> Tensor:
        """[num_rows, hidden_size] of a batch on the CPU; valid until the next step."""
        num_rows = len(batch.seq_lens)
        size = self._buckets[bisect_left(self._buckets, num_rows)]
        load(self._static, batch, size)
        graph, hidden = self._graphs[size]
        graph.replay()
        return hidden[:num_rows]
