"""Norms and activations on the CPU: exact, and row by row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from pdrt import _C
from pdrt.kernels import cpu, reference
from tests.kernel_cases import assert_as_exact_as_torch, drawn, same_bits

pytestmark = pytest.mark.usefixtures("isa")

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1), (3, 33), (17, 80), (2, 576), (5, 2560)]
EPS = 1e-5


def check_against_float64(name: str, *args: Tensor | float | None) -> None:
    """Each twin gets its own copies, since a residual is changed in place."""

    def run(op: Callable[..., Tensor], dtype: torch.dtype | None = None) -> Tensor:
        return op(*[arg.to(dtype, copy=True) if isinstance(arg, Tensor) else arg for arg in args])

    twin = getattr(reference, name)
    assert_as_exact_as_torch(run(getattr(cpu, name)), run(twin), run(twin, torch.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_are_as_exact_as_torch(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, residual = drawn(*shape, dtype=dtype) * 3, drawn(*shape, dtype=dtype, seed=1)
    weight, bias = drawn(shape[1], dtype=dtype, seed=2), drawn(shape[1], dtype=dtype, seed=3)
    check_against_float64("rms_norm", x, weight, EPS)
    check_against_float64("rms_norm", x, weight, EPS, residual)
    check_against_float64("rms_norm", x, weight, EPS, None, 1.0)
    check_against_float64("rms_norm", x, weight, EPS, residual, 1.0)
    check_against_float64("layer_norm", x, weight, bias, EPS)
    check_against_float64("layer_norm", x, weight, bias, EPS, residual)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_adds_to_the_residual_in_place(dtype: torch.dtype) -> None:
    x, residual = drawn(3, 50, dtype=dtype), drawn(3, 50, dtype=dtype, seed=1)
    weight, bias = drawn(50, dtype=dtype, seed=2), drawn(50, dtype=dtype, seed=3)
    total = residual + x
    for normed, alone in (
        (cpu.rms_norm(x, weight, EPS, kept := residual.clone()), cpu.rms_norm(total, weight, EPS)),
        (
            cpu.layer_norm(x, weight, bias, EPS, kept2 := residual.clone()),
            cpu.layer_norm(total, weight, bias, EPS),
        ),
    ):
        assert same_bits(normed, alone)
    assert same_bits(kept, total)
    assert same_bits(kept2, total)


def test_an_offset_is_added_to_the_weight_in_float32() -> None:
    """1 + weight has too many digits for bfloat16 here; only the result is rounded to it."""
    x, weight = drawn(9, 256, dtype=torch.bfloat16), drawn(256, dtype=torch.bfloat16, seed=1) / 100
    result = cpu.rms_norm(x, weight, EPS, weight_offset=1.0).double()
    exact = reference.rms_norm(x.double(), weight.double(), EPS, weight_offset=1.0)
    assert ((result - exact).abs() <= (2**-8 + 1e-6) * exact.abs()).all()


def test_an_offset_of_zero_changes_no_bit_of_a_weight() -> None:
    weight = torch.tensor([-0.0, 0.0, 1e-40, -3.0])
    normed = cpu.rms_norm(torch.ones(1, 4), weight, 0.0)
    assert same_bits(normed[0], weight)


def test_a_layer_norm_far_from_zero_keeps_its_variance() -> None:
    x = drawn(4, 80) + 1000
    check_against_float64("layer_norm", x, torch.ones(80), torch.zeros(80), EPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_as_exact_as_torch(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = drawn(shape[0], 2 * shape[1], dtype=dtype) * 6
    check_against_float64("silu_and_mul", x)
    check_against_float64("gelu_tanh", x)
    check_against_float64("gelu_tanh_and_mul", x)
    check_against_float64("gelu", x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_is_nearer_to_the_exact_one_than_torch_over_all_of_its_range(
    dtype: torch.dtype,
) -> None:
    x = torch.linspace(-12, 12, 200_001).to(dtype)
    exact = reference.gelu(x.double())
    error = (cpu.gelu(x.unsqueeze(0))[0].double() - exact).abs()
    torch_error = (torch.nn.functional.gelu(x).double() - exact).abs()
    assert error.max() <= 2 * torch_error.max()
    size = exact.abs().clamp(min=1e-38)  # 0 at 0
    assert (error / size).max() <= 2 * (torch_error / size).max()
    # Torch loses all digits below -6. What is lost here grows with the rounding of x^2.
    rounding = 2**-8 if dtype is torch.bfloat16 else 0.0
    assert (error <= (6e-7 + x.double() ** 2 * 2**-25 + rounding) * size).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_has_its_limits_at_infinity(dtype: torch.dtype) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([inf, 3e38, 0.0, -0.0, -50.0, -3e38, -inf, nan], dtype=dtype)
    expected = torch.tensor([inf, x[1], 0.0, -0.0, 0.0, 0.0, 0.0, nan], dtype=dtype)
    for result in (cpu.gelu(x.unsqueeze(0))[0], cpu.gelu(x.repeat(1, 9))[0, -8:]):
        assert same_bits(result[:-1], expected[:-1])
        assert result[-1].isnan()


def test_a_gated_gelu_is_the_product_of_both_bit_by_bit() -> None:
    x = drawn(5, 66) * 4
    gate, up = x[:, :33].contiguous(), x[:, 33:]
    assert same_bits(cpu.gelu_tanh_and_mul(x), cpu.gelu_tanh(gate) * up)


def test_silu_is_within_two_millionths_over_all_of_its_range() -> None:
    gate = torch.cat([torch.linspace(-80, 80, 100_001), torch.tensor([-3e38, 3e38, 0.0, -0.0])])
    result = cpu.silu_and_mul(torch.cat([gate, torch.ones_like(gate)]).unsqueeze(0))[0].double()
    exact = gate.double() * torch.sigmoid(gate.double())
    assert ((result - exact).abs() <= 2e-6 * exact.abs()).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(dtype: torch.dtype) -> None:
    x, weight = drawn(40, 90, dtype=dtype), drawn(90, dtype=dtype, seed=1)
    for op in (
        lambda rows: cpu.rms_norm(rows, weight, EPS),
        lambda rows: cpu.layer_norm(rows, weight, weight, EPS),
        lambda rows: cpu.rms_norm(rows, weight, EPS, weight_offset=1.0),
        cpu.silu_and_mul,
        cpu.gelu_tanh,
        cpu.gelu_tanh_and_mul,
        cpu.gelu,
    ):
        together = op(x)
        assert all(same_bits(op(x[i : i + 1]), together[i : i + 1]) for i in range(len(x)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_result_goes_where_it_is_asked_to_with_the_same_bits(dtype: torch.dtype) -> None:
    x, weight = drawn(3, 66, dtype=dtype), drawn(66, dtype=dtype, seed=1)
    for op in (
        partial(cpu.rms_norm, weight=weight, eps=EPS),
        partial(cpu.layer_norm, weight=weight, bias=weight, eps=EPS),
        cpu.silu_and_mul,
        cpu.gelu_tanh,
        cpu.gelu_tanh_and_mul,
        cpu.gelu,
    ):
        expected = op(x)
        out = torch.full_like(expected, float("nan"))
        assert op(x, out=out) is out
        assert same_bits(out, expected)
        if out.shape == x.shape:
            assert same_bits(op(own := x.clone(), out=own), expected)


@pytest.mark.usefixtures("one_thread_after")
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    x = drawn(600, 1000)
    alone = cpu.gelu_tanh(x)
    _C.set_num_threads(3)
    assert same_bits(cpu.gelu_tanh(x), alone)


def test_arguments_that_do_not_fit_are_named() -> None:
    x, weight = drawn(3, 8), drawn(8)
    with pytest.raises(ValueError, match=r"x is torch.float16, expected torch.float32"):
        cpu.gelu_tanh(x.half())
    with pytest.raises(ValueError, match=r"x has 7 columns; gate and up need an even number"):
        cpu.silu_and_mul(x[:, :7].contiguous())
    with pytest.raises(ValueError, match=r"x has 7 columns; gate and up need an even number"):
        cpu.gelu_tanh_and_mul(x[:, :7].contiguous())
    with pytest.raises(ValueError, match=r"x is torch.float64, expected torch.float32"):
        cpu.gelu(x.double())
    with pytest.raises(ValueError, match=r"x \(8, 3\) has strides \(1, 8\), expected a contig"):
        cpu.gelu_tanh(x.T)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\), expected \(8,\)"):
        cpu.rms_norm(x, drawn(3), EPS)
    with pytest.raises(ValueError, match=r"bias is torch.bfloat16, expected torch.float32"):
        cpu.layer_norm(x, weight, weight.bfloat16(), EPS)
    with pytest.raises(ValueError, match=r"residual has shape \(2, 8\), expected \(3, 8\)"):
        cpu.rms_norm(x, weight, EPS, x[:2])
    with pytest.raises(ValueError, match=r"out has shape \(3, 8\), expected \(3, 4\)"):
        cpu.silu_and_mul(x, out=torch.empty(3, 8))
    with pytest.raises(ValueError, match=r"out is torch.bfloat16, expected torch.float32"):
        cpu.rms_norm(x, weight, EPS, out=x.bfloat16())


def test_an_unknown_instruction_set_or_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="isa is 'mmx'; give portable, avx2, avx512 or a"):
        _C.set_cpu_isa("mmx")
    with pytest.raises(ValueError, match="num_threads is 0; give 1 or more"):
        _C.set_num_threads(0)


AFTER_FORK = """
import os
import numpy as np
import torch
from pdrt import _C

def gelu(x):
    out = np.empty_like(x)
    _C.cpu_gelu_tanh(torch.from_numpy(out), torch.from_numpy(x))
    return out

x = np.linspace(-9, 9, 1_000_000, dtype=np.float32).reshape(1000, 1000)
_C.set_num_threads(3)
expected = gelu(x)
child = os.fork()
if child == 0:
    alone = np.array_equal(gelu(x), expected)
    _C.set_num_threads(2)
    raise SystemExit(0 if alone and np.array_equal(gelu(x), expected) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_threads_end_with_the_process_and_a_forked_child_starts_anew() -> None:
    done = subprocess.run([sys.executable, "-c", AFTER_FORK], timeout=60)
    assert done.returncode == 0
