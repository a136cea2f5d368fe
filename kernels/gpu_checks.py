"""Checks of tensors at the boundary of a Triton kernel, and the values that follow from them.

The first tensor of an op decides: all others lie on its device, which may be any GPU of the machine
(under Triton's interpreter the CPU). The order is that of checks.py: device, dtype, shape, stride.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pdrt.kernels.checks import check, check_contiguous
from pdrt.kernels.launch import INTERPRETED

GPU_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def check_first(name: str, tensor: Tensor) -> None:
    """The tensor that decides on device and dtype: on a GPU, of a dtype of the kernels.

    Raises:
        ValueError: it is not.
    """
    if not (tensor.is_cuda or INTERPRETED):
        raise ValueError(
            f"{name} is on {tensor.device}; this kernel needs a CUDA device, or "
            "TRITON_INTERPRET=1 in the environment before triton is imported"
        )
    if tensor.dtype not in GPU_FLOATS:
        raise ValueError(f"{name} is {tensor.dtype}, expected one of {GPU_FLOATS}")


def check_array(
    name: str, tensor: Tensor, first: Tensor, dtype: torch.dtype, shape: Sequence[int]
) -> None:
    """A contiguous tensor beside the first.

    Raises:
        ValueError: device, dtype, shape or stride differ.
    """
    check(name, tensor, dtype, shape, first.device)
    check_contiguous(name, tensor)


def check_matrix(name: str, tensor: Tensor) -> tuple[int, int]:
    """The first tensor of an op that works row by row; returns (rows, size).

    Raises:
        ValueError: it is not a contiguous matrix on a GPU; names what it is.
    """
    check_first(name, tensor)
    if tensor.dim() != 2 or tensor.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected [num_rows, size]")
    check_contiguous(name, tensor)
    num_rows, size = tensor.shape
    return num_rows, size


def result(name: str, tensor: Tensor | None, x: Tensor, size: int) -> Tensor:
    """Where an op that works row by row writes, [num_rows, size] like x, or a new tensor.

    Raises:
        ValueError: device, dtype, shape or stride of the caller's tensor differ.
    """
    if tensor is None:
        return x.new_empty(len(x), size)
    check_array(name, tensor, x, x.dtype, (len(x), size))
    return tensor
