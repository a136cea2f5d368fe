"""Checks of tensors at the boundary of a backend. Messages name the argument and both values.

Their order is fixed: device, dtype, shape, stride.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CPU = torch.device("cpu")


def check(
    name: str,
    tensor: Tensor,
    dtype: torch.dtype,
    shape: Sequence[int],
    device: torch.device = CPU,
) -> None:
    """Device, dtype and shape.

    Raises:
        ValueError: one differs.
    """
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device}")
    if tensor.dtype is not dtype:
        raise ValueError(f"{name} is {tensor.dtype}, expected {dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def check_contiguous(name: str, tensor: Tensor) -> None:
    """Elements lie one after the other, as their indices do.

    Raises:
        ValueError: they do not.
    """
    if not tensor.is_contiguous():
        shape, strides = tuple(tensor.shape), tensor.stride()
        raise ValueError(f"{name} {shape} has strides {strides}, expected a contiguous tensor")


def check_whole(name: str, tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    """check and check_contiguous of a tensor on the CPU, in half the time where it fits.

    Raises:
        ValueError: device, dtype, shape or stride differ.
    """
    if tensor.is_cpu and tensor.dtype is dtype and tensor.shape == shape:
        if tensor.is_contiguous():
            return
    check(name, tensor, dtype, shape)
    check_contiguous(name, tensor)


def check_strides(name: str, tensor: Tensor, last: tuple[int, ...]) -> None:
    """The last strides, in elements; those of dimensions of size 1 say nothing.

    Raises:
        ValueError: one differs.
    """
    strides = tensor.stride()[-len(last) :]
    if strides == last:
        return
    sizes = tensor.shape[-len(last) :]
    for size, stride, expected in zip(sizes, strides, last, strict=True):
        if size > 1 and stride != expected:
            raise ValueError(f"{name} has last strides {strides}, expected {last}")
