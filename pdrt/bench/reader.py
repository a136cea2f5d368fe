"""A model that reads passages of one length, each into KV pages of its own, and says what follows.

For benches that ask what a model thinks and not how long it takes: a decoder without worker,
schedulers or ledger.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pdrt._C import Memory
from pdrt.kernels import cpu
from pdrt.kv.pool import kv_pool
from pdrt.kv.shape import KVShape
from pdrt.messages import ServerSpec
from pdrt.model.batch import Batch
from pdrt.model.decoder import Decoder
from pdrt.model.layout import WeightFormat, weight_layout
from pdrt.model.spec import ModelSpec
from pdrt.model.weights import Weight, map_weights
from pdrt.runner.executor import CpuExecutor
from pdrt.runner.shape import ServerShape
from pdrt.worker.loader import load_into

Tokens = NDArray[np.int32]


def own_weights(spec: ModelSpec, server: ServerSpec) -> dict[str, Weight]:
    """A server's weights for the CPU, loaded into memory of this process, by their names."""
    layout = weight_layout(spec, WeightFormat.of(server))
    memory = Memory.create("weights", layout.num_bytes)
    memory.use_huge_pages()
    load_into(server, memory)
    return map_weights(memory, layout)


class Reader:
    """A server's model on the CPU, in this process.

    Args:
        server: whose weights, page size and longest passage it has.
        num_passages: that it keeps the KV of.

    Attributes:
        weights: by their names in pdrt.model.spec.
    """

    def __init__(self, spec: ModelSpec, server: ServerSpec, num_passages: int) -> None:
        self.weights = own_weights(spec, server)
        decoder = Decoder(spec, self.weights, cpu, server.max_model_len)
        limits = ServerShape.of(server)
        shape = KVShape(
            spec.num_layers, spec.num_kv_heads, server.page_size, spec.head_dim, server.dtype
        )
        width = limits.max_pages
        kv = Memory.create("kv", shape.pool_bytes(num_passages * width))
        pool = kv_pool(kv, shape, num_passages * width)
        self._executor = CpuExecutor(decoder, pool, limits, lambda: None)
        self._page_size = server.page_size
        # Page 0 is nobody's.
        self._pages = 1 + np.arange(num_passages * width, dtype=np.int32).reshape(-1, width)

    def logits(self, first: int, tokens: Tokens, start: int) -> Tensor:
        """What each of some passages' next tokens makes likely to follow.

        Args:
            first: the first of these passages.
            tokens: [num_rows, n] of passages first, first + 1, ...
            start: how many tokens of each were read before.

        Returns:
            [num_rows, n, vocab_size] float32.
        """
        num_rows, count = tokens.shape
        pages = self._pages[first : first + num_rows]
        positions = np.arange(start, start + count, dtype=np.int32)
        places = pages[:, positions // self._page_size] * np.int32(self._page_size)
        batch = Batch(
            input_ids=torch.from_numpy(tokens.ravel()),
            positions=torch.from_numpy(np.tile(positions, num_rows)),
            slot_mapping=torch.from_numpy((places + positions % self._page_size).ravel()),
            page_table=torch.from_numpy(pages),
            cu_seqlens_q=torch.arange(num_rows + 1, dtype=torch.int32) * count,
            seq_lens=torch.full((num_rows,), start + count, dtype=torch.int32),
            wanted=torch.arange(num_rows * count),
        )
        hidden = self._executor.forward(batch)
        return self._executor.logits(hidden).view(num_rows, count, -1)
