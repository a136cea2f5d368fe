"""Where each tensor stands in the weight memory. The loader and every worker compute the same.

Touches no tensors, so that the process which only makes the memory can know its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pdrt.model.spec import ModelSpec, Shape, tensors

ALIGNMENT = 64  # bytes: a cache line, and the widest vector load

WeightDType = Literal["float32", "bfloat16"]
ITEM_SIZE: dict[WeightDType, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Layout:
    """Name -> (offset in bytes, shape), and the size of it all."""

    dtype: WeightDType
    entries: dict[str, tuple[int, Shape]]
    num_bytes: int


def weight_layout(spec: ModelSpec, dtype: WeightDType) -> Layout:
    """The layout of all tensors of a model; a tied head is stored once, as the embedding."""
    entries: dict[str, tuple[int, Shape]] = {}
    end = 0
    for name, shape in tensors(spec).items():
        entries[name] = (end, shape)
        num_bytes = ITEM_SIZE[dtype] * math.prod(shape)
        end += math.ceil(num_bytes / ALIGNMENT) * ALIGNMENT
    return Layout(dtype, entries, end)
