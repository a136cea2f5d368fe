"""CUDA graphs of decode steps: one for each bucket of rows, captured once, replayed for each step.

A graph's launches and addresses are fixed, so a step is copied into tensors that stay, and filled
up to its bucket with rows that read and write nothing: length 0, slot -1. All graphs share these
tensors and one pool of intermediate memory, the largest bucket first, so that the smaller ones fit
into what it took.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pdrt.model.batch import Batch

# What a row that pads a step holds: it reads no page and writes to none.
PADDING = {"input_ids": 0, "positions": 0, "slot_mapping": -1, "seq_lens": 0}


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
        memory = torch.cuda.graph_pool_handle()
        with torch.cuda.device(self._device):
            for size in tqdm(self._buckets[::-1], desc="decode graphs", unit="graph"):
                batch = first_rows(self._static, size)
                self._step(batch)  # once outside: kernels are compiled, libraries allocate
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=memory):
                    hidden = self._step(batch)
                self._graphs[size] = graph, hidden

    def fits(self, batch: Batch) -> bool:
        """Whether there is a graph for it: one new token a row, whose logits are wanted."""
        num_rows = len(batch.seq_lens)
        is_decode = len(batch.input_ids) == num_rows == len(batch.wanted)
        return is_decode and num_rows <= self._buckets[-1]

    def run(self, batch: Batch) -> Tensor:
        """[num_rows, hidden_size] of a batch on the CPU; valid until the next step."""
        num_rows = len(batch.seq_lens)
        size = self._buckets[bisect_left(self._buckets, num_rows)]
        load(self._static, batch, size)
        graph, hidden = self._graphs[size]
        graph.replay()
        return hidden[:num_rows]


def padding_batch(num_rows: int, max_pages: int, device: torch.device) -> Batch:
    """A decode step of rows that are padding only, in tensors that may be written to."""
    ints = {
        name: torch.full((num_rows,), value, dtype=torch.int32, device=device)
        for name, value in PADDING.items()
    }
    return Batch(
        **ints,
        page_table=torch.zeros(num_rows, max_pages, dtype=torch.int32, device=device),
        cu_seqlens_q=torch.arange(num_rows + 1, dtype=torch.int32, device=device),
        wanted=torch.arange(num_rows, device=device),
    )


def first_rows(batch: Batch, num_rows: int) -> Batch:
    """Views of the first rows of a decode step."""
    return Batch(
        input_ids=batch.input_ids[:num_rows],
        positions=batch.positions[:num_rows],
        slot_mapping=batch.slot_mapping[:num_rows],
        page_table=batch.page_table[:num_rows],
        cu_seqlens_q=batch.cu_seqlens_q[: num_rows + 1],
        seq_lens=batch.seq_lens[:num_rows],
        wanted=batch.wanted[:num_rows],
    )


def load(static: Batch, batch: Batch, size: int) -> None:
    """Writes a decode step on the CPU, and padding up to `size` rows, to where a graph reads it."""
    num_rows, num_pages = batch.page_table.shape
    for name, value in PADDING.items():
        padded = F.pad(getattr(batch, name), (0, size - num_rows), value=value)
        _send(padded, getattr(static, name)[:size])
    _send(batch.page_table, static.page_table[:num_rows, :num_pages])


def _send(values: Tensor, to: Tensor) -> None:
    """Without waiting, where `to` is on a GPU."""
    to.copy_(values.pin_memory() if to.is_cuda else values, non_blocking=True)
