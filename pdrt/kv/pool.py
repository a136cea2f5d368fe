"""The KV pool as a tensor: a view of the shared page memory, never a copy of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pdrt._C import Memory
from pdrt.kv.shape import KVShape, SharedMemory


def kv_pool(memory: SharedMemory, shape: KVShape, num_pages: int) -> Tensor:
    """[num_pages + 1, num_layers, 2, num_kv_heads, page_size, head_dim]; it keeps memory mapped."""
    buffer: Tensor = from_dlpack(memory)  # [num_bytes] uint8
    num_bytes = shape.pool_bytes(num_pages)
    assert memory.num_bytes >= num_bytes, (memory.num_bytes, num_bytes)
    dtype: torch.dtype = getattr(torch, shape.dtype)  # pdrt uses torch's words
    return buffer[:num_bytes].view(dtype).view(num_pages + 1, *shape.page)


class FreshPages:
    """Takes a pool's memory from the system before pages are written for the first time.

    Memory comes at a fault for each 4 KB of it, and a token's keys and values lie in as many places
    as there are layers and heads, so that a new page meets all of its faults at once. In pages of
    2 MB there are few, and addresses are found faster ever after. Pages that were never used are
    given out in ascending order, so what is taken is one run from the pool's start; memory that no
    request needs is left to others.
    """

    def __init__(self, memory: Memory, page_bytes: int) -> None:
        self._memory = memory
        self._page_bytes = page_bytes
        self._taken = 0  # bytes

    def take(self, last_page: int) -> None:
        """Up to this page, which is to be written."""
        end = (last_page + 1) * self._page_bytes
        if end > self._taken:
            self._memory.use_huge_pages(self._taken, end)
            self._taken = end
