"""Norms in Triton: as exact as torch, each row by itself, and nothing beyond the rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pdrt.kernels import reference
from pdrt.kernels.layer_norm import layer_norm
from pdrt.kernels.rms_norm import rms_norm
from pdrt.kernels.row_tiles import row_tiles
from tests.kernel_cases import assert_as_exact_as_torch, drawn, same_bits
from tests.triton_cases import DEVICE, DTYPES
from tests.triton_rows import between_guards

# One tile, two exact ones, a masked one; odd sizes, one element, one row, many rows.
SHAPES = [(1, 1), (3, 33), (37, 64), (2, 576), (5, 2560), (1, 3584), (2, 4096), (1, 10240)]
EPS = 1e-5
OPS = {"rms_norm": (rms_norm, reference.rms_norm), "layer_norm": (layer_norm, reference.layer_norm)}


def arguments(name: str, size: int, dtype: torch.dtype) -> list[Tensor]:
    weights = [drawn(size, dtype=dtype, seed=i).to(DEVICE) for i in (2, 3)]
    return weights[: 2 if name == "layer_norm" else 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPS)
def test_norms_are_as_exact_as_torch(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    op, twin = OPS[name]
    x, residual = (drawn(*shape, dtype=dtype, seed=i).to(DEVICE) * 3 for i in (0, 1))
    weights = arguments(name, shape[1], dtype)

    def run(op: Callable[..., Tensor], to: torch.dtype, residual: Tensor | None) -> Tensor:
        kept = None if residual is None else residual.to(to, copy=True)
        return op(x.to(to), *[w.to(to) for w in weights], EPS, kept)

    for added in (None, residual):
        assert_as_exact_as_torch(
            run(op, dtype, added), run(twin, dtype, added), run(twin, torch.float64, added)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_a_norm_adds_to_the_residual_in_place(name: str, dtype: torch.dtype) -> None:
    op, _ = OPS[name]
    x, residual = (drawn(3, 80, dtype=dtype, seed=i).to(DEVICE) for i in (0, 1))
    weights, total = arguments(name, 80, dtype), residual + x
    assert same_bits(op(x, *weights, EPS, residual), op(total, *weights, EPS))
    assert same_bits(residual, total)


@pytest.mark.parametrize("name", OPS)
def test_a_result_goes_where_it_is_asked_to(name: str) -> None:
    op, _ = OPS[name]
    x, weights = drawn(3, 80).to(DEVICE), arguments(name, 80, torch.float32)
    out = torch.full_like(x, float("nan"))
    assert op(x, *weights, EPS, out=out) is out
    assert same_bits(out, op(x, *weights, EPS))


def test_an_offset_is_added_to_the_weight_in_float32() -> None:
    x, weight = (drawn(9, 256, dtype=torch.bfloat16, seed=i).to(DEVICE) for i in (0, 1))
    weight = weight[0] / 100
    result = rms_norm(x, weight, EPS, weight_offset=1.0).double()
    exact = reference.rms_norm(x.double(), weight.double(), EPS, weight_offset=1.0)
    assert ((result - exact).abs() <= (2**-8 + 1e-6) * exact.abs()).all()


def test_a_layer_norm_far_from_zero_keeps_its_variance() -> None:
    x = drawn(4, 80).to(DEVICE) + 1000
    one, zero = torch.ones(80, device=DEVICE), torch.zeros(80, device=DEVICE)
    assert_as_exact_as_torch(
        layer_norm(x, one, zero, EPS),
        reference.layer_norm(x, one, zero, EPS),
        reference.layer_norm(x.double(), one.double(), zero.double(), EPS),
    )


@pytest.mark.parametrize("size", [96, 100, 2560])
@pytest.mark.parametrize("name", OPS)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(name: str, size: int) -> None:
    op, _ = OPS[name]
    x, weights = drawn(9, size).to(DEVICE), arguments(name, size, torch.float32)
    together = op(x, *weights, EPS)
    assert all(same_bits(op(x[i : i + 1], *weights, EPS), together[i : i + 1]) for i in range(9))
    assert same_bits(op(x.flip(0).contiguous(), *weights, EPS), together.flip(0))


@pytest.mark.parametrize("size", [80, 100])
@pytest.mark.parametrize("name", OPS)
def test_what_lies_around_the_rows_is_neither_read_nor_written(name: str, size: int) -> None:
    op, _ = OPS[name]
    nan = float("nan")
    (x, residual), guards = between_guards(2, (3, size), nan)
    x.copy_(drawn(3, size))
    residual.zero_()
    weights = arguments(name, size, torch.float32)
    alone = op(x.clone(), *weights, EPS, residual.clone())
    x[1] = nan  # a row that is no number spoils itself only
    result = op(x, *weights, EPS, residual)
    assert same_bits(result[[0, 2]], alone[[0, 2]])
    assert result[1].isnan().all()
    assert all(guard.isnan().all() for guard in guards)


def test_rows_are_cut_without_masks_where_their_size_allows_that() -> None:
    assert row_tiles(2560) == (2048, 512)
    assert row_tiles(4096) == (4096, 0)
    assert row_tiles(7168) == (8192, 0)
    assert row_tiles(2050, smallest=4) == (4096, 0)
    assert row_tiles(1) == (1, 0)


def test_no_rows_are_no_launch() -> None:
    x = torch.empty(0, 64, device=DEVICE)
    assert rms_norm(x, torch.ones(64, device=DEVICE), EPS).shape == (0, 64)


def test_arguments_that_do_not_fit_are_named() -> None:
    x, weight = drawn(3, 8).to(DEVICE), drawn(8).to(DEVICE)
    with pytest.raises(ValueError, match=r"x is torch.float64, expected one of"):
        rms_norm(x.double(), weight, EPS)
    with pytest.raises(ValueError, match=r"x has shape \(8,\), expected \[num_rows, size\]"):
        rms_norm(weight, weight, EPS)
    with pytest.raises(ValueError, match=r"x \(8, 3\) has strides \(1, 8\), expected a contig"):
        rms_norm(x.T, weight[:3], EPS)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\), expected \(8,\)"):
        rms_norm(x, weight[:3], EPS)
    with pytest.raises(ValueError, match=r"bias is torch.bfloat16, expected torch.float32"):
        layer_norm(x, weight, weight.bfloat16(), EPS)
    with pytest.raises(ValueError, match=r"residual has shape \(2, 8\), expected \(3, 8\)"):
        layer_norm(x, weight, weight, EPS, x[:2])
