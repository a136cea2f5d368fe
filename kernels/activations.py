"""Activations of the MLP, gated and plain: silu_and_mul, gelu_tanh_and_mul, gelu_tanh, gelu.

    from pdrt.kernels.activations import silu_and_mul

    gate_up = torch.randn(512, 2 * 14336, device="cuda", dtype=torch.bfloat16)
    out = silu_and_mul(gate_up)  # [512, 14336]

One kernel: a program computes BLOCK outputs of one row in float32. The function is a constexpr, so
each is a kernel of its own when compiled.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pdrt.kernels.gpu_checks import check_matrix, result
from pdrt.kernels.launch import OPTIONS, POINTERS, CompileCase
from pdrt.kernels.tiles import rounded

BLOCK = 1024  # outputs of a program: 16 bytes of bfloat16 a thread
WARPS = 4

SILU, GELU_TANH, GELU = (tl.constexpr(i) for i in range(3))


@triton.jit
def _silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _gelu_tanh(x):
    # (1 + tanh(u)) / 2 is the logistic function of 2 u.
    two_u = 1.5957691216057308 * (x + 0.044715 * x * x * x)  # 2 sqrt(2 / pi)
    return x / (1.0 + tl.exp(-two_u))


@triton.jit
def _normal_tail(a):
    """The probability that a normal variable exceeds a >= 0: exact to 6e-8 of itself, but for what
    rounding a^2 costs. The fit is explained in csrc/simd_math.h."""
    t = 1.0 / (1.0 + 0.34375 * a)
    p = -2.73670238e-2 * t + 1.41812757e-1
    p = p * t - 2.67751843e-1
    p = p * t + 1.86679631e-1
    p = p * t - 3.65845747e-2
    p = p * t + 1.11588567e-1
    p = p * t + 1.16990633e-1
    p = p * t + 1.37510493e-1
    p = p * t + 1.3712135e-1
    return p * t * tl.exp(-0.5 * a * a)


@triton.jit
def _gelu(x):
    tail = _normal_tail(tl.abs(x))
    part = tl.where(tail == 0.0, 0.0, x * tail)  # of infinity too
    return tl.where(x > 0.0, x - part, part)


@triton.jit
def _activation_kernel(
    x,
    out,
    SIZE: tl.constexpr,  # of a row of the output
    BLOCK: tl.constexpr,
    FUNCTION: tl.constexpr,  # SILU, GELU_TANH or GELU
    GATED: tl.constexpr,  # a row of x is gate | up
):
    blocks: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    x += row * SIZE * (2 if GATED else 1)
    mask = column < SIZE
    value = tl.load(x + column, mask=mask, other=0.0).to(tl.float32)
    if FUNCTION == SILU:
        value = _silu(value)
    elif FUNCTION == GELU_TANH:
        value = _gelu_tanh(value)
    else:
        value = _gelu(value)
    if GATED:
        value *= tl.load(x + SIZE + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + column, rounded(value, out.dtype.element_ty), mask=mask)


def silu_and_mul(x: Tensor, out: Tensor | None = None) -> Tensor:
    """silu(gate) * up, for contiguous x = gate | up: [num_rows, 2 * size] -> [num_rows, size].

    SwiGLU, Shazeer 2020. For all here, x is bfloat16, float16 or float32, and the result is written
    to `out`, [num_rows, size] of x's dtype, or to a new tensor.

    Raises:
        ValueError: x does not fit.
    """
    return _gated(SILU, x, out)


def gelu_tanh_and_mul(x: Tensor, out: Tensor | None = None) -> Tensor:
    """gelu_tanh(gate) * up, for contiguous x = gate | up: [num_rows, 2 * size] -> [num_rows, size].

    Raises:
        ValueError: x does not fit.
    """
    return _gated(GELU_TANH, x, out)


def gelu_tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), x [num_rows, size], contiguous.

    Hendrycks and Gimpel 2016, the tanh form.

    Raises:
        ValueError: x does not fit.
    """
    _, size = check_matrix("x", x)
    return _activated(GELU_TANH, x, result("out", out, x, size), gated=False)


def gelu(x: Tensor, out: Tensor | None = None) -> Tensor:
    """x / 2 * (1 + erf(x / sqrt(2))), x [num_rows, size], contiguous; -inf gives the limit, 0.

    Raises:
        ValueError: x does not fit.
    """
    _, size = check_matrix("x", x)
    return _activated(GELU, x, result("out", out, x, size), gated=False)


def _gated(function: tl.constexpr, x: Tensor, out: Tensor | None) -> Tensor:
    _, width = check_matrix("x", x)
    if width % 2:
        raise ValueError(f"x has {width} columns; gate and up need an even number")
    return _activated(function, x, result("out", out, x, width // 2), gated=True)


def _activated(function: tl.constexpr, x: Tensor, out: Tensor, gated: bool) -> Tensor:
    num_rows, size = out.shape
    programs = num_rows * triton.cdiv(size, BLOCK)
    if programs:
        with torch.cuda.device_of(x):
            _activation_kernel[(programs,)](
                x, out, size, BLOCK, function.value, gated, num_warps=WARPS, **OPTIONS
            )
    return out


def compile_cases() -> list[CompileCase]:
    """Each function at sizes with and without a part of a block at the end."""
    cases = [
        ("silu_and_mul", SILU, True, 1536),
        ("gelu_tanh_and_mul", GELU_TANH, True, 6912),
        ("gelu_tanh", GELU_TANH, False, 10240),
        ("gelu", GELU, False, 3072),
    ]
    return [
        CompileCase(
            name=f"{name} {size} {str(dtype).removeprefix('torch.')}",
            kernel=_activation_kernel,
            arguments={
                "x": POINTERS[dtype],
                "out": POINTERS[dtype],
                "SIZE": size,
                "BLOCK": BLOCK,
                "FUNCTION": function.value,
                "GATED": gated,
            },
            num_warps=WARPS,
        )
        for name, function, gated, size in cases
        for dtype in ((torch.bfloat16, torch.float32) if gated else (torch.bfloat16,))
    ]
