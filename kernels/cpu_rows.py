"""The part of the CPU backend that works row by row: norms and activations.

Rows are tokens. As in cpu.py, arguments are checked in C++, where they are read. Each op takes
`out`, a tensor that the result is written to; without it there is a new one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pdrt import _C


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None = None,
    weight_offset: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (weight_offset + weight), over the last dimension, in float32.

    With a residual, residual += x first, in place, and the norm is that of the sum.

    Args:
        x, residual, out: [num_rows, size] float32 or bfloat16, contiguous; out may be x.
        weight: [size], dtype of x.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    out = torch.empty_like(x) if out is None else out
    _C.cpu_rms_norm(out, x, weight, residual, eps, weight_offset)
    return out


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension, in float32.

    With a residual, residual += x first, in place, and the norm is that of the sum.

    Args:
        x, residual, out: [num_rows, size] float32 or bfloat16, contiguous; out may be x.
        weight, bias: [size], dtype of x.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    out = torch.empty_like(x) if out is None else out
    _C.cpu_layer_norm(out, x, weight, bias, residual, eps)
    return out


def silu_and_mul(x: Tensor, out: Tensor | None = None) -> Tensor:
    """silu(gate) * up, for contiguous x = gate | up: [num_rows, 2 * size] -> [num_rows, size].

    Raises:
        ValueError: x does not fit.
    """
    out = _half(x) if out is None else out
    _C.cpu_silu_and_mul(out, x)
    return out


def gelu_tanh_and_mul(x: Tensor, out: Tensor | None = None) -> Tensor:
    """gelu_tanh(gate) * up, for contiguous x = gate | up: [num_rows, 2 * size] -> [num_rows, size].

    Raises:
        ValueError: x does not fit.
    """
    out = _half(x) if out is None else out
    _C.cpu_gelu_tanh_and_mul(out, x)
    return out


def gelu_tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), x [num_rows, size], contiguous.

    Raises:
        ValueError: x does not fit.
    """
    out = torch.empty_like(x) if out is None else out
    _C.cpu_gelu_tanh(out, x)
    return out


def gelu(x: Tensor, out: Tensor | None = None) -> Tensor:
    """x / 2 * (1 + erf(x / sqrt(2))), x [num_rows, size], contiguous; -inf gives the limit, 0.

    Raises:
        ValueError: x does not fit.
    """
    out = torch.empty_like(x) if out is None else out
    _C.cpu_gelu(out, x)
    return out


def _half(x: Tensor) -> Tensor:
    """A new tensor of x's rows and half its columns."""
    return x.new_empty(x.shape[0], x.shape[1] // 2)
