"""Layer norm with a fused residual addition: one program a row, the row read once.

    from pdrt.kernels.layer_norm import layer_norm

    x = torch.randn(512, 2560, device="cuda", dtype=torch.bfloat16)
    out = layer_norm(x, torch.ones_like(x[0]), torch.zeros_like(x[0]), eps=1e-5)

Mean and variance are taken one after the other from the row in registers, so a large mean costs no
digits of the variance. Reads and writes n * size * (2 or, with a residual, 4) elements.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pdrt.kernels.gpu_checks import check_array, check_matrix, result
from pdrt.kernels.launch import OPTIONS, POINTERS, CompileCase
from pdrt.kernels.row_tiles import (
    inverse_root,
    load_sum,
    load_tile,
    row_tiles,
    row_warps,
    store_tile,
)


@triton.jit
def _centred(x, mean, START: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """x - mean; 0 past the row."""
    x = x - mean
    if START + WIDTH > SIZE:
        x = tl.where(START + tl.arange(0, WIDTH) < SIZE, x, 0.0)
    return x


@triton.jit
def _store_scaled(
    centred, factor, weight, bias, out, START: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr
):
    scale = load_tile(weight, START, WIDTH, SIZE)
    shift = load_tile(bias, START, WIDTH, SIZE)
    store_tile(out, centred * factor * scale + shift, START, WIDTH, SIZE)


@triton.jit
def _layer_norm_kernel(
    x,
    residual,  # or None
    weight,
    bias,
    out,
    eps,
    SIZE: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * SIZE
    if residual is not None:
        residual += start
    first = load_sum(x + start, residual, 0, FIRST, SIZE)
    total = tl.sum(first)
    if SECOND > 0:
        second = load_sum(x + start, residual, FIRST, SECOND, SIZE)
        total += tl.sum(second)
    mean = total / SIZE
    first = _centred(first, mean, 0, FIRST, SIZE)
    squares = tl.sum(first * first)
    if SECOND > 0:
        second = _centred(second, mean, FIRST, SECOND, SIZE)
        squares += tl.sum(second * second)
    factor = inverse_root(squares / SIZE, eps)
    _store_scaled(first, factor, weight, bias, out + start, 0, FIRST, SIZE)
    if SECOND > 0:
        _store_scaled(second, factor, weight, bias, out + start, FIRST, SECOND, SIZE)


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension, in float32.

    With a residual, residual += x first, in place, and the norm is that of the sum. Ba et al. 2016.
    The bits of a row depend on that row alone.

    Args:
        x, residual, out: [num_rows, size] bfloat16, float16 or float32, contiguous.
        weight, bias: [size], dtype of x.

    Raises:
        ValueError: an argument does not fit; names it. Nothing was written.
    """
    num_rows, size = check_matrix("x", x)
    check_array("weight", weight, x, x.dtype, (size,))
    check_array("bias", bias, x, x.dtype, (size,))
    if residual is not None:
        check_array("residual", residual, x, x.dtype, x.shape)
    out = result("out", out, x, size)
    if num_rows:
        warps = row_warps(size)
        tiles = row_tiles(size, 64 * warps)
        with torch.cuda.device_of(x):
            _layer_norm_kernel[(num_rows,)](
                x, residual, weight, bias, out, eps, size, *tiles, num_warps=warps, **OPTIONS
            )
    return out


def compile_cases() -> list[CompileCase]:
    """Rows of the models that are served, in bfloat16 and float32, with and without a residual."""
    bf16, fp32 = torch.bfloat16, torch.float32
    fused = [_compile_case(size, bf16, fused=True) for size in (768, 2560, 10240)]
    return [*fused, _compile_case(2560, bf16, fused=False), _compile_case(2560, fp32, fused=True)]


def _compile_case(size: int, dtype: torch.dtype, fused: bool) -> CompileCase:
    warps = row_warps(size)
    first, second = row_tiles(size, 64 * warps)
    pointer = POINTERS[dtype]
    return CompileCase(
        name=f"layer_norm {size} {str(dtype).removeprefix('torch.')} {fused=}",
        kernel=_layer_norm_kernel,
        arguments={
            "x": pointer,
            "residual": pointer if fused else None,
            "weight": pointer,
            "bias": pointer,
            "out": pointer,
            "eps": "fp32",
            "SIZE": size,
            "FIRST": first,
            "SECOND": second,
        },
        num_warps=warps,
    )
