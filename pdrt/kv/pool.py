"""The KV pool as a tensor: a view of the shared page memory, never a copy of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pdrt.kv.shape import KVShape, SharedMemory


def kv_pool(memory: SharedMemory, shape: KVShape, num_pages: int) -> Tensor:
    """[num_pages + 1, num_layers, 2, num_kv_heads, page_size, head_dim]; it keeps memory mapped."""
    buffer: Tensor = from_dlpack(memory)  # [num_bytes] uint8
    num_bytes = shape.pool_bytes(num_pages)
    assert memory.num_bytes >= num_bytes, (memory.num_bytes, num_bytes)
    dtype: torch.dtype = getattr(torch, shape.dtype)  # pdrt uses torch's words
    return buffer[:num_bytes].view(dtype).view(num_pages + 1, *shape.page)


def copy_tokens(pool: Tensor, source: int, destination: int, num_tokens: int) -> None:
    """Copies the KV of a page's first tokens to another page, and touches no other token's."""
    pool[destination, :, :, :, :num_tokens] = pool[source, :, :, :, :num_tokens]
