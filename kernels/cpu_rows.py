"""The part of the CPU backend that works row by row: norms and activations.

Rows are tokens. As in cpu.py, arguments are checked once, here, and everything below trusts them.
Each takes `out`, a tensor that the result is written to; without it there is a new one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pdrt import _C
from pdrt.kernels.checks import check_rows, check_whole


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
    num_rows, size = x.shape
    check_rows("x", x, (num_rows, size))
    check_whole("weight", weight, x.dtype, (size,))
    out = _result(out, x, size)
    _C.cpu_rms_norm(
        out=out.data_ptr(),
        x=x.data_ptr(),
        residual=_residual_address(residual, x),
        weight=weight.data_ptr(),
        num_rows=num_rows,
        size=size,
        eps=eps,
        weight_offset=weight_offset,
        is_bfloat16=x.dtype is torch.bfloat16,
    )
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
    num_rows, size = x.shape
    check_rows("x", x, (num_rows, size))
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_whole(name, tensor, x.dtype, (size,))
    out = _result(out, x, size)
    _C.cpu_layer_norm(
        out=out.data_ptr(),
        x=x.data_ptr(),
        residual=_residual_address(residual, x),
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        num_rows=num_rows,
        size=size,
        eps=eps,
        is_bfloat16=x.dtype is torch.bfloat16,
    )
    return out


def silu_and_mul(x: Tensor, out: Tensor | None = None) -> Tensor:
    """silu(gate) * up, for contiguous x = gate | up: [num_rows, 2 * size] -> [num_rows, size].

    Raises:
        ValueError: x does not fit.
    """
    return _gated(_C.cpu_silu_and_mul, x, out)


def gelu_tanh_and_mul(x: Tensor, out: Tensor | None = None) -> Tensor:
    """gelu_tanh(gate) * up, for contiguous x = gate | up: [num_rows, 2 * size] -> [num_rows, size].

    Raises:
        ValueError: x does not fit.
    """
    return _gated(_C.cpu_gelu_tanh_and_mul, x, out)


def gelu_tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), x [num_rows, size], contiguous.

    Raises:
        ValueError: x does not fit.
    """
    return _activated(_C.cpu_gelu_tanh, x, out)


def gelu(x: Tensor, out: Tensor | None = None) -> Tensor:
    """x / 2 * (1 + erf(x / sqrt(2))), x [num_rows, size], contiguous; -inf gives the limit, 0.

    Raises:
        ValueError: x does not fit.
    """
    return _activated(_C.cpu_gelu, x, out)


def _activated(op: Callable[..., None], x: Tensor, out: Tensor | None) -> Tensor:
    num_rows, size = x.shape
    check_rows("x", x, (num_rows, size))
    return _per_row(op, x, _result(out, x, size))


def _gated(op: Callable[..., None], x: Tensor, out: Tensor | None) -> Tensor:
    num_rows, width = x.shape
    check_rows("x", x, (num_rows, width))
    if width % 2:
        raise ValueError(f"x has {width} columns; gate and up need an even number")
    return _per_row(op, x, _result(out, x, width // 2))


def _per_row(op: Callable[..., None], x: Tensor, out: Tensor) -> Tensor:
    """x [num_rows, size or 2 * size] -> out [num_rows, size]."""
    num_rows, size = out.shape
    is_bfloat16 = x.dtype is torch.bfloat16
    op(out=out.data_ptr(), x=x.data_ptr(), num_rows=num_rows, size=size, is_bfloat16=is_bfloat16)
    return out


def _result(out: Tensor | None, x: Tensor, size: int) -> Tensor:
    """Where the result goes, [num_rows, size]: the caller's tensor, or a new one."""
    if out is None:
        return torch.empty(x.shape[0], size, dtype=x.dtype)
    check_whole("out", out, x.dtype, (x.shape[0], size))
    return out


def _residual_address(residual: Tensor | None, x: Tensor) -> int:
    if residual is None:
        return 0
    check_whole("residual", residual, x.dtype, x.shape)
    return residual.data_ptr()
