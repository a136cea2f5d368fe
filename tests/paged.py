"""A decoder with KV pages that a test hands out itself: one request's tokens, page by page.

Pages come in a scattered order and hold NaN until they are written, so that a read of the wrong
place shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pdrt._C import Memory
from pdrt.kernels import cpu
from pdrt.kv.pool import kv_pool
from pdrt.kv.shape import KVShape
from pdrt.model.batch import Batch
from pdrt.model.checkpoint import read_spec
from pdrt.model.decoder import Decoder
from pdrt.model.layout import WeightDType, WeightFormat, weight_layout
from pdrt.model.weights import load_weights, map_weights


class PagedModel:
    """A checkpoint's decoder over a pool of `num_pages` pages of `page_size` tokens."""

    def __init__(
        self,
        folder: Path,
        dtype: WeightDType = "float32",
        page_size: int = 16,
        num_pages: int = 80,
        max_model_len: int | None = None,
    ) -> None:
        self.spec = read_spec(folder)
        layout = weight_layout(self.spec, WeightFormat(dtype))
        weights = Memory.create("test weights", layout.num_bytes)
        load_weights(folder, WeightFormat(dtype), weights)
        spec = self.spec
        self.decoder = Decoder(
            spec, map_weights(weights, layout), cpu, max_model_len or spec.max_position_embeddings
        )
        shape = KVShape(spec.num_layers, spec.num_kv_heads, page_size, spec.head_dim, dtype)
        memory = Memory.create("test pool", shape.pool_bytes(num_pages))
        self.pool = kv_pool(memory, shape, num_pages).fill_(float("nan"))
        self.page_size = page_size
        self._free = list(range(1, num_pages + 1))
        random.Random(7).shuffle(self._free)
        self.num_layers_done = 0

    def request(self) -> Request:
        return Request(self)

    def take_page(self) -> int:
        return self._free.pop()

    def logits(
        self, *parts: tuple[Request, Sequence[int]], wanted: Sequence[int] | None = None
    ) -> Tensor:
        """Computes the next tokens of some requests in one step: [tokens, vocab] float32.

        Of all tokens, or of those that are wanted, by their index in the step.
        """
        rows = [request.extend(tokens) for request, tokens in parts]
        width = max(len(request.pages) for request, _ in parts)
        table = np.zeros((len(parts), width), np.int32)
        for i, (request, _) in enumerate(parts):
            table[i, : len(request.pages)] = request.pages
        ends = np.cumsum([0, *(len(tokens) for _, tokens in parts)], dtype=np.int32)
        batch = Batch(
            input_ids=torch.cat([row.input_ids for row in rows]),
            positions=torch.cat([row.positions for row in rows]),
            slot_mapping=torch.cat([row.slot_mapping for row in rows]),
            page_table=torch.from_numpy(table),
            cu_seqlens_q=torch.from_numpy(ends),
            seq_lens=torch.tensor([r.num_tokens for r, _ in parts], dtype=torch.int32),
            wanted=torch.tensor(range(int(ends[-1])) if wanted is None else wanted).long(),
        )
        return self.decoder.logits(
            self.decoder.forward(batch, self.pool.unbind(1), self._layer_done)
        )

    def _layer_done(self) -> None:
        self.num_layers_done += 1


@dataclass(frozen=True)
class Row:
    """New tokens of one request: each [n] int32."""

    input_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor


class Request:
    """The pages of one sequence, and how many tokens they hold."""

    def __init__(self, model: PagedModel) -> None:
        self._model = model
        self.pages: list[int] = []
        self.num_tokens = 0

    def extend(self, tokens: Sequence[int]) -> Row:
        positions = np.arange(self.num_tokens, self.num_tokens + len(tokens), dtype=np.int32)
        self.num_tokens += len(tokens)
        while len(self.pages) * self._model.page_size < self.num_tokens:
            self.pages.append(self._model.take_page())
        pages = np.array(self.pages, np.int32)[positions // self._model.page_size]
        places = pages * np.int32(self._model.page_size) + positions % self._model.page_size
        ids = torch.tensor(tokens, dtype=torch.int32)
        return Row(ids, torch.from_numpy(positions), torch.from_numpy(places))


def in_chunks(model: PagedModel, tokens: list[int], *lengths: int) -> Tensor:
    """Logits of all tokens, computed in chunks of these lengths and then one by one."""
    request, parts, start = model.request(), [], 0
    for length in [*lengths, *[1] * (len(tokens) - sum(lengths))]:
        parts.append(model.logits((request, tokens[start : start + length])))
        start += length
    return torch.cat(parts)
