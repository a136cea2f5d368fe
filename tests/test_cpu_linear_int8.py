"""Linears of int8 weights: exact sums, the same bits in every instruction set, NaN where x is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pdrt import _C
from pdrt.kernels import reference
from pdrt.kernels.cpu_linear import PackedLinear, embedding, linear, pack_rows, packed, unpacked
from tests.kernel_cases import (
    assert_as_exact_as_torch,
    assert_nan_after,
    beside_nan,
    drawn,
    int32,
    same_bits,
)

pytestmark = pytest.mark.usefixtures("isa")

DTYPES = [torch.float32, torch.bfloat16]
# outputs, inputs: one; less than a panel; odd in both; several panels and groups, whole and odd
SHAPES = [(2, 1), (6, 8), (34, 31), (100, 128), (130, 201)]
GROUP = 64  # inputs that share a scale


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[n, m] -> whole numbers from -127 to 127, float64, and the scale of each row, [n, 1] float32.

    By numpy, as it is documented.
    """
    x = rows.float().numpy()
    scales = (np.abs(x).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float32)
    with np.errstate(divide="ignore"):
        per_step = np.where(scales > 2.0**-120, np.float32(1) / scales, np.float32(0))
    steps = np.rint(x * per_step)
    return torch.from_numpy(steps).double(), torch.from_numpy(scales)


def rounded(rows: Tensor, size: int) -> Tensor:
    """What rows stand for, when each `size` numbers of one have a scale: float64."""
    parts = [quantized(part) for part in rows.split(size, dim=1)]
    return torch.cat([steps * scales.double() for steps, scales in parts], dim=1)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """The documented formula: exact sums of groups, each by its scale, added up in float32."""
    outputs, output_scales = quantized(weight)
    result = torch.zeros(len(x), len(weight))
    for part, columns in zip(x.split(GROUP, dim=1), outputs.split(GROUP, dim=1), strict=True):
        inputs, scales = quantized(part)
        result = result + (inputs @ columns.T).float() * scales
    return result * output_scales.T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_has_the_bits_of_its_formula(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """So it has the same bits in every instruction set, and for any number of rows."""
    weight = drawn(*shape, dtype=dtype, seed=1)
    panels = packed(weight, int8=True)
    for num_rows in (*range(1, 18), 64):
        x = drawn(num_rows, shape[1], dtype=dtype, seed=num_rows)
        out = torch.empty(num_rows, shape[0])
        assert same_bits(linear(x, panels, out=out), product(x, weight)), num_rows


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_products_do_not_overflow(sign: float) -> None:
    """All numbers at the ends of their range: two products then take more than 16 bits."""
    x, weight = torch.ones(2, 200), torch.ones(3, 200)
    weight[1] = sign * weight[0]
    x[1, ::2] = -1.0
    out = linear(x, packed(weight, int8=True))
    assert same_bits(out, product(x, weight))
    assert out[0, 1].item() == pytest.approx(sign * 200)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_tanh", "silu_gated", "gelu_tanh_gated"])
def test_bias_activation_and_residual_follow_with_one_rounding(
    activation: str | None, dtype: torch.dtype
) -> None:
    weight, bias = drawn(66, 150, dtype=dtype, seed=1) / 8, drawn(66, dtype=dtype, seed=2)
    panels = packed(weight, activation is not None and activation.endswith("_gated"), int8=True)
    x = drawn(9, 150, dtype=dtype)
    residual = drawn(9, panels.out_size, dtype=dtype, seed=3)
    for b, r in ((bias, None), (None, residual), (bias, residual)):
        rest = [None if t is None else t.double() for t in (b, r)]
        exact = reference.linear(rounded(x, GROUP), rounded(weight, 150), *rest, activation)
        assert_as_exact_as_torch(linear(x, panels, b, r, activation), exact.to(dtype), exact)


@pytest.mark.parametrize("activation", [None, "silu_gated"])
def test_a_rows_bits_depend_on_no_other_row(activation: str | None) -> None:
    """Alone, in any number of rows, in any place, beside rows of NaN."""
    weight, x = drawn(70, 75, dtype=torch.bfloat16, seed=1), drawn(20, 75, dtype=torch.bfloat16)
    panels = packed(weight, activation is not None, int8=True)
    alone = torch.cat([linear(row[None], panels, activation=activation) for row in x])
    for num_rows in range(2, 21):
        result = linear(x[-num_rows:].clone(), panels, activation=activation)
        assert same_bits(result, alone[-num_rows:]), num_rows
    x[::2] = float("nan")
    assert same_bits(linear(x, panels, activation=activation)[1::2], alone[1::2])


def test_neither_blocks_nor_threads_change_a_bit(one_thread_after: None) -> None:
    """2,000 inputs: several blocks of rows, panels and groups that threads share."""
    panels, x = packed(drawn(600, 2000, seed=1), int8=True), drawn(300, 2000)
    whole = linear(x, panels)
    for first, end in ((0, 1), (63, 66), (129, 300)):
        assert same_bits(linear(x[first:end], panels), whole[first:end])
    for num_threads in (2, 3):
        _C.set_num_threads(num_threads)
        assert same_bits(linear(x, panels), whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 17, 99])
def test_a_row_that_is_not_finite_gives_nan(place: int, value: float, dtype: torch.dtype) -> None:
    weight, x = drawn(40, 100, dtype=dtype, seed=1), drawn(3, 100, dtype=dtype)
    weight[5] = 0.0
    panels = packed(weight, int8=True)
    x[1, place] = value
    result = linear(x, panels)
    assert result[1].isnan().all()
    assert same_bits(result[::2], linear(x[::2].contiguous(), panels))
    gated = packed(weight, gated=True, int8=True)
    assert linear(x, gated, activation="silu_gated")[1].isnan().all()


def test_nothing_beyond_the_ends_is_read_or_written() -> None:
    """Of x, the weight, the bias and the residual; all are followed by NaN."""
    weight, x = drawn(50, 33, seed=1), drawn(9, 33)
    bias, residual = drawn(50, seed=2), drawn(9, 25, seed=3)
    plain = packed(weight, gated=True, int8=True)
    guarded = PackedLinear(beside_nan(plain.memory), plain.packed)
    out = beside_nan(torch.zeros(9, 25))
    args = [beside_nan(tensor) for tensor in (bias, residual)]
    linear(beside_nan(x), guarded, *args, activation="silu_gated", out=out)
    assert same_bits(out, linear(x, plain, bias, residual, "silu_gated"))
    assert_nan_after(out)


# -- packing: the same in every instruction set ---------------------------------------------------


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_weight_is_off_by_half_a_step_at_most(shape: tuple[int, int], gated: bool) -> None:
    weight = drawn(*shape, seed=1) * torch.logspace(-6, 6, shape[0])[:, None]
    scales = weight.double().abs().amax(1, keepdim=True) / 127
    error = (unpacked(packed(weight, gated, int8=True)).double() - weight.double()).abs()
    assert (error <= scales * (0.5 + 1e-5)).all()
    largest = weight.abs().argmax(1, keepdim=True)
    assert (error.gather(1, largest) <= scales * 1e-5).all()


def test_rows_of_zeros_stay_zero() -> None:
    weight, x = drawn(3, 20, seed=1), drawn(2, 20)
    weight[1], x[1] = 0.0, 0.0
    panels, bias = packed(weight, int8=True), torch.tensor([1.0, 2.0, 3.0])
    assert not unpacked(panels)[1].any()
    assert linear(x, panels, bias)[:, 1].tolist() == [2.0, 2.0]
    assert linear(x, panels, bias)[1].tolist() == [1.0, 2.0, 3.0]


def test_rows_too_small_for_a_scale_are_zero() -> None:
    """The inverse of a scale below 2^-120 may be infinite; all of its row counts as zero."""
    weight = torch.tensor([[2.0**-149, 0.0], [2.0**-114, -1.0], [2.0**-114, 0.0]])
    panels = packed(weight, int8=True)
    assert unpacked(panels).tolist() == [[0.0, 0.0], [0.0, -1.0], [0.0, 0.0]]
    assert linear(weight, panels).tolist() == [[0.0] * 3, [0.0, 1.0, 0.0], [0.0] * 3]


def test_a_row_of_the_weight_that_is_not_finite_gives_nan_where_it_goes() -> None:
    weight = drawn(40, 37, seed=1)
    weight[3, 5], weight[33, 0] = float("inf"), float("nan")
    result = linear(drawn(2, 37), packed(weight, int8=True))
    assert result[:, [3, 33]].isnan().all()
    assert result.isnan().sum() == 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
def test_rows_may_come_in_pieces_and_twice(gated: bool, dtype: torch.dtype) -> None:
    weight = drawn(130, 77, dtype=dtype)
    in_pieces = packed(drawn(130, 77, dtype=dtype, seed=5), gated, int8=True)
    pack_rows(in_pieces, 43, weight[43:])
    pack_rows(in_pieces, 0, weight[:43])
    assert torch.equal(in_pieces.memory, packed(weight, gated, int8=True).memory)


def test_panels_stand_as_the_header_draws_them() -> None:
    """Two rows of five inputs: 16 steps of four inputs, 32 lanes wide, then 32 scales."""
    weight = torch.tensor([[127.0, -1.0, 2.0, 0.0, 3.0], [-254.0, 4.0, 0.0, 0.0, 0.0]])
    memory = packed(weight, int8=True).memory
    assert len(memory) == 16 * 32 * 4 + 32 * 4
    steps = memory[:2048].view(16, 32, 4)
    assert steps[:2, 0].flatten().tolist() == [255, 127, 130, 128, 131, 128, 128, 128]
    assert steps[0, 1].tolist() == [1, 130, 128, 128]
    assert (steps[2:, :2] == 128).all() and not steps[:, 2:].any()
    assert memory[2048:].view(torch.float32)[:3].tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_embedding_is_read_from_its_panels(dtype: torch.dtype) -> None:
    weight, ids = drawn(70, 33, dtype=dtype), int32([69, 0, 31, 32, 0])
    steps, scales = quantized(weight)
    expected = (steps.float() * scales).to(dtype)[ids.long()]
    assert same_bits(embedding(ids, packed(weight, int8=True)), expected)
