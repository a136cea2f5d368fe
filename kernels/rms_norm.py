"""RMS norm with a fused residual addition: one program a row, the row read once.

    from pdrt.kernels.rms_norm import rms_norm

    x = torch.randn(512, 4096, device="cuda", dtype=torch.bfloat16)
    out = rms_norm(x, torch.ones_like(x[0]), eps=1e-6)

Reads and writes each row once: n * size * (2 or, with a residual, 4) elements.
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
def _rms_norm_kernel(
    x,
    residual,  # or None
    weight,
    out,
    eps,
    weight_offset,
    SIZE: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * SIZE
    if residual is not None:
        residual += start
    first = load_sum(x + start, residual, 0, FIRST, SIZE)
    squares = tl.sum(first * first)
    if SECOND > 0:
        second = load_sum(x + start, residual, FIRST, SECOND, SIZE)
        squares += tl.sum(second * second)
    factor = inverse_root(squares / SIZE, eps)
    scale = load_tile(weight, 0, FIRST, SIZE) + weight_offset
    store_tile(out + start, first * factor * scale, 0, FIRST, SIZE)
    if SECOND > 0:
        scale = load_tile(weight, FIRST, SECOND, SIZE) + weight_offset
        store_tile(out + start, second * factor * scale, FIRST, SECOND, SIZE)


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None = None,
    weight_offset: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (weight_offset + weight), over the last dimension, in float32.

    With a residual, residual += x first, in place, and the norm is that of the sum. Zhang and
    Sennrich 2019. The bits of a row depend on that row alone.

    Args:
        x, residual, out: [num_rows, size] bfloat16, float16 or float32, contiguous.
        weight: [size], dtype of x.

    Raises:
        ValueError: an argument does not fit; names it. Nothing was written.
    """
    num_rows, size = check_matrix("x", x)
    check_array("weight", weight, x, x.dtype, (size,))
    if residual is not None:
        check_array("residual", residual, x, x.dtype, x.shape)
    out = result("out", out, x, size)
    if num_rows:
        warps = row_warps(size)
        tiles = row_tiles(size, 64 * warps)
        with torch.cuda.device_of(x):
            _rms_norm_kernel[(num_rows,)](
                x,
                residual,
                weight,
                out,
                eps,
                weight_offset,
                size,
                *tiles,
                num_warps=warps,
                **OPTIONS,
            )
    return out


def compile_cases() -> list[CompileCase]:
    """Rows of the models that are served, in bfloat16 and float32, with and without a residual."""
    bf16, fp32 = torch.bfloat16, torch.float32
    sizes = (576, 3072, 3584, 5120, 8192)
    fused = [_compile_case(size, bf16, fused=True) for size in sizes]
    return [*fused, _compile_case(4096, bf16, fused=False), _compile_case(4096, fp32, fused=True)]


def _compile_case(size: int, dtype: torch.dtype, fused: bool) -> CompileCase:
    warps = row_warps(size)
    first, second = row_tiles(size, 64 * warps)
    pointer = POINTERS[dtype]
    return CompileCase(
        name=f"rms_norm {size} {str(dtype).removeprefix('torch.')} {fused=}",
        kernel=_rms_norm_kernel,
        arguments={
            "x": pointer,
            "residual": pointer if fused else None,
            "weight": pointer,
            "out": pointer,
            "eps": "fp32",
            "weight_offset": "fp32",
            "SIZE": size,
            "FIRST": first,
            "SECOND": second,
        },
        num_warps=warps,
    )
