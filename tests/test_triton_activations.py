"""Activations in Triton: as exact as torch over their range, each row by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pdrt.kernels import activations, reference
from tests.kernel_cases import assert_as_exact_as_torch, drawn, same_bits
from tests.triton_cases import DEVICE, DTYPES
from tests.triton_rows import between_guards

# exp(100) is inf, and x / inf the right answer; numpy, which interprets here, warns of both.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

NAMES = ["silu_and_mul", "gelu_tanh_and_mul", "gelu_tanh", "gelu"]
SHAPES = [(1, 2), (3, 34), (17, 80), (2, 3072), (1, 20480)]


def op(name: str) -> Callable[[Tensor], Tensor]:
    return getattr(activations, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_activations_are_as_exact_as_torch(
    name: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    x = drawn(*shape, dtype=dtype).to(DEVICE) * 6
    twin = getattr(reference, name)
    assert_as_exact_as_torch(op(name)(x), twin(x), twin(x.double()))


def test_gelu_keeps_its_digits_where_it_is_tiny() -> None:
    x = torch.linspace(-12, 12, 50_001, device=DEVICE)
    exact = reference.gelu(x.double())
    error = (activations.gelu(x.unsqueeze(0))[0].double() - exact).abs()
    # What is lost grows with the rounding of x^2, as in the CPU's.
    assert (error <= (1e-6 + x.double() ** 2 * 2**-24) * exact.abs().clamp(min=1e-38)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_has_its_limits_at_infinity(dtype: torch.dtype) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[inf, 6e4, 0.0, -0.0, -50.0, -6e4, -inf, nan]], dtype=dtype, device=DEVICE)
    expected = torch.tensor([inf, x[0, 1], 0.0, -0.0, 0.0, 0.0, 0.0], dtype=dtype, device=DEVICE)
    result = activations.gelu(x)[0]
    assert same_bits(result[:-1], expected)
    assert result[-1].isnan()


def test_silu_is_within_three_millionths_over_all_of_its_range() -> None:
    gate = torch.linspace(-80, 80, 50_001, device=DEVICE)
    x = torch.cat([gate, torch.ones_like(gate)]).unsqueeze(0)
    result = activations.silu_and_mul(x)[0].double()
    exact = gate.double() * torch.sigmoid(gate.double())
    # exp(-x) loses what rounding x * log2(e) costs: up to 80 * 2^-24.
    assert ((result - exact).abs() <= 6e-6 * exact.abs()).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(name: str) -> None:
    x = drawn(9, 90).to(DEVICE) * 4
    together = op(name)(x)
    assert all(same_bits(op(name)(x[i : i + 1]), together[i : i + 1]) for i in range(9))


@pytest.mark.parametrize("name", NAMES)
def test_a_result_goes_where_it_is_asked_to(name: str) -> None:
    x = drawn(3, 90).to(DEVICE)
    expected = op(name)(x)
    out = torch.full_like(expected, float("nan"))
    assert op(name)(x, out=out) is out
    assert same_bits(out, expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_around_the_rows_is_not_read(name: str) -> None:
    (x,), _ = between_guards(1, (3, 90), float("nan"))
    x.copy_(drawn(3, 90))
    assert op(name)(x).isfinite().all()


def test_arguments_that_do_not_fit_are_named() -> None:
    x = drawn(3, 8).to(DEVICE)
    with pytest.raises(ValueError, match=r"x has 7 columns; gate and up need an even number"):
        activations.silu_and_mul(x[:, :7].contiguous())
    with pytest.raises(ValueError, match=r"x is torch.float64, expected one of"):
        activations.gelu(x.double())
    with pytest.raises(ValueError, match=r"x \(8, 3\) has strides \(1, 8\), expected a contig"):
        activations.gelu_tanh(x.T)
    with pytest.raises(ValueError, match=r"out has shape \(3, 8\), expected \(3, 4\)"):
        activations.silu_and_mul(x, out=torch.empty_like(x))
