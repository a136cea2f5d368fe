"""The shape of the KV pool, in numbers: what a page holds and how many bytes that is.

    [num_pages + 1][num_layers][2: key, value][num_kv_heads][page_size][head_dim]

One page is one run of bytes. Page 0 is a scratch page that no request is given. Touches no tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

KVDType = Literal["float32", "bfloat16"]
ITEM_SIZE: dict[KVDType, int] = {"float32": 4, "bfloat16": 2}


class SharedMemory(Protocol):
    """Memory of the CPU or of a GPU that processes share: pdrt._C.Memory, _C_cuda.DeviceMemory."""

    @property
    def num_bytes(self) -> int: ...

    def __dlpack__(self, **kwargs: object) -> object: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class KVShape:
    """One page's extents and the type of its numbers."""

    num_layers: int
    num_kv_heads: int
    page_size: int
    head_dim: int
    dtype: KVDType

    @property
    def page(self) -> tuple[int, ...]:
        """[num_layers, 2, num_kv_heads, page_size, head_dim]"""
        return (self.num_layers, 2, self.num_kv_heads, self.page_size, self.head_dim)

    @property
    def page_bytes(self) -> int:
        return ITEM_SIZE[self.dtype] * math.prod(self.page)

    def pool_bytes(self, num_pages: int) -> int:
        """Of a pool that can give out `num_pages` pages."""
        return (num_pages + 1) * self.page_bytes
