"""Rows for the Triton kernels that work row by row, with something poisonous around them."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.triton_cases import DEVICE

GUARD = 64  # elements


def between_guards(
    count: int, shape: tuple[int, ...], value: float, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], list[Tensor]]:
    """`count` tensors that lie one after the other in memory, with guards full of value around."""
    size = torch.Size(shape).numel()
    memory = torch.full((count * (size + GUARD) + GUARD,), value, dtype=dtype, device=DEVICE)
    starts = [i * (size + GUARD) for i in range(count + 1)]
    tensors = [memory[start + GUARD : start + GUARD + size].view(shape) for start in starts[:-1]]
    return tensors, [memory[start : start + GUARD] for start in starts]
