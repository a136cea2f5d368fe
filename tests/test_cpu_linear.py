"""Packed linears on the CPU: exact, row by row, within their memory, in every instruction set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pdrt import _C
from pdrt.kernels import reference
from pdrt.kernels.cpu_linear import (
    PackedLinear,
    embedding,
    linear,
    pack_rows,
    packed,
    unpacked,
)
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
ACTIVATIONS = [None, "gelu", "gelu_tanh", "silu_gated", "gelu_tanh_gated"]
# outputs, inputs: one; less than a panel; odd in both; several panels and an odd pair
SHAPES = [(2, 1), (6, 8), (34, 31), (130, 77)]


def is_gated(activation: str | None) -> bool:
    return activation is not None and activation.endswith("_gated")


def weight_of(num_outputs: int, num_inputs: int, dtype: torch.dtype) -> Tensor:
    return (drawn(num_outputs, num_inputs, seed=1) / num_inputs**0.5).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_as_exact_as_torch(
    shape: tuple[int, int], activation: str | None, dtype: torch.dtype
) -> None:
    weight, bias = weight_of(*shape, dtype), drawn(shape[0], dtype=dtype, seed=2)
    panels = packed(weight, is_gated(activation))
    for num_rows in (1, 7, 13):
        x = drawn(num_rows, shape[1], dtype=dtype)
        residual = drawn(num_rows, panels.out_size, dtype=dtype, seed=3)
        for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
            twin = [None if t is None else t.double() for t in (x, weight, b, r)]
            assert_as_exact_as_torch(
                linear(x, panels, b, r, activation),
                reference.linear(x, weight, b, r, activation),
                reference.linear(*twin, activation),  # type: ignore[arg-type]
            )


@pytest.mark.parametrize("activation", [None, "silu_gated"])
def test_float32_results_of_bfloat16_are_not_rounded(activation: str | None) -> None:
    """Their error is that of float32 sums of products, which are exact in float32."""
    weight, x = weight_of(66, 301, torch.bfloat16), drawn(5, 301, dtype=torch.bfloat16)
    panels = packed(weight, is_gated(activation))
    out = torch.empty(5, panels.out_size)
    exact = reference.linear(x.double(), weight.double(), activation=activation)
    assert linear(x, panels, activation=activation, out=out) is out
    assert (out.double() - exact).abs().max() < 301 * 2**-24 * 4
    assert same_bits(linear(x, panels, activation=activation), out.bfloat16())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "silu_gated"])
def test_a_rows_bits_depend_on_no_other_row(activation: str | None, dtype: torch.dtype) -> None:
    """Alone, in any number of rows, in any place, beside rows of NaN."""
    panels = packed(weight_of(70, 75, dtype), is_gated(activation))
    x = drawn(20, 75, dtype=dtype)
    alone = torch.cat([linear(row[None], panels, activation=activation) for row in x])
    for num_rows in range(2, 21):
        result = linear(x[-num_rows:].clone(), panels, activation=activation)
        assert same_bits(result, alone[-num_rows:]), num_rows
    x[::2] = float("nan")
    assert same_bits(linear(x, panels, activation=activation)[1::2], alone[1::2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_neither_blocks_nor_threads_change_a_bit(
    dtype: torch.dtype, one_thread_after: None
) -> None:
    """2,000 inputs: blocks of 64 or 65 rows, and panels that threads share."""
    panels, x = packed(weight_of(200, 2000, dtype), False), drawn(150, 2000, dtype=dtype)
    whole = linear(x, panels)
    for first, end in ((0, 1), (63, 66), (100, 150)):
        assert same_bits(linear(x[first:end], panels), whole[first:end])
    for num_threads in (2, 3):
        _C.set_num_threads(num_threads)
        assert same_bits(linear(x, panels), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_beyond_the_ends_is_read_or_written(dtype: torch.dtype) -> None:
    """Of x, the weight, the bias and the residual; all are followed by NaN."""
    activation, gated = "silu_gated", True
    weight, x = weight_of(50, 33, dtype), drawn(9, 33, dtype=dtype)
    bias, residual = drawn(50, dtype=dtype, seed=2), drawn(9, 25, dtype=dtype, seed=3)
    plain = packed(weight, gated)
    guarded = PackedLinear(beside_nan(plain.memory), plain.packed)
    out = beside_nan(torch.zeros(9, 25, dtype=dtype))
    args = [beside_nan(tensor) for tensor in (bias, residual)]
    linear(beside_nan(x), guarded, *args, activation=activation, out=out)
    assert same_bits(out, linear(x, plain, bias, residual, activation))
    assert_nan_after(out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_residual_may_be_added_to_in_place(dtype: torch.dtype) -> None:
    panels, x = packed(weight_of(40, 40, dtype)), drawn(3, 40, dtype=dtype)
    residual = drawn(3, 40, dtype=dtype, seed=4)
    expected = linear(x, panels, residual=residual)
    assert linear(x, panels, residual=residual, out=residual) is residual
    assert same_bits(residual, expected)


# -- packing: the same in every instruction set ---------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (100, 64)], ids=str)
def test_rows_come_back_as_they_were_packed(
    shape: tuple[int, int], gated: bool, dtype: torch.dtype
) -> None:
    weight = drawn(*shape, dtype=dtype)
    in_pieces = packed(torch.zeros_like(weight), gated)
    middle = shape[0] // 3
    pack_rows(in_pieces, middle, weight[middle:])
    pack_rows(in_pieces, 0, weight[:middle])
    assert same_bits(unpacked(in_pieces), weight)
    assert torch.equal(in_pieces.memory, packed(weight, gated).memory)


def test_panels_stand_as_the_header_draws_them() -> None:
    """Three rows of three inputs: one panel of two pairs, 32 lanes wide, zero where nothing is."""
    weight = torch.arange(1, 10, dtype=torch.bfloat16).view(3, 3)
    panel = packed(weight).memory.view(torch.bfloat16).view(2, 32, 2)
    expected = torch.zeros(2, 32, 2, dtype=torch.bfloat16)
    expected[0, :3] = weight[:, :2]
    expected[1, :3, 0] = weight[:, 2]
    assert torch.equal(panel, expected)
    gate_up = torch.arange(1, 7, dtype=torch.float32).view(6, 1)  # gate 1 2 3, up 4 5 6
    panel = packed(gate_up, gated=True).memory.view(torch.float32).view(1, 32)
    assert panel[0, :3].tolist() == [1, 2, 3] and panel[0, 16:19].tolist() == [4, 5, 6]
    assert panel.count_nonzero() == 6


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_embedding_is_read_from_its_panels(dtype: torch.dtype) -> None:
    weight, ids = drawn(70, 33, dtype=dtype), int32([69, 0, 31, 32, 0])
    assert same_bits(embedding(ids, packed(weight)), weight[ids.long()])
    assert same_bits(embedding(ids, weight), weight[ids.long()])


# -- errors ---------------------------------------------------------------------------------------

X, W = torch.zeros(2, 8), packed(torch.zeros(6, 8))
GATED = packed(torch.zeros(6, 8), gated=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear(X[:, :7], W), r"x has shape \(2, 7\), expected \(2, 8\)"),
        (lambda: linear(X.bfloat16(), W), r"x is torch\.bfloat16, expected torch\.float32"),
        (lambda: linear(X.repeat(1, 2)[:, ::2], W), "x .* expected a contiguous tensor"),
        (lambda: linear(X, torch.zeros(6, 8)), r"weight is a tensor \(6, 8\); give it packed"),
        (lambda: linear(X, W, torch.zeros(5)), r"bias has shape \(5,\), expected \(6,\)"),
        (lambda: linear(X, W, residual=X), r"residual has shape \(2, 8\), expected \(2, 6\)"),
        (lambda: linear(X, W, out=X), r"out has shape \(2, 8\), expected \(2, 6\)"),
        (lambda: linear(X, W, activation="relu"), "activation is 'relu', which is none for"),
        (lambda: linear(X, W, activation="silu_gated"), "which is none for a plain weight"),
        (lambda: linear(X, GATED, activation="gelu"), "which is none for a gated weight"),
        (lambda: embedding(int32([0, 6]), W), r"ids\[1\] is 6, the weight has 6 rows"),
        (lambda: embedding(int32([-1]), W), r"ids\[0\] is -1, the weight has 6 rows"),
        (lambda: embedding(torch.zeros(1), W), r"ids is torch\.float32, expected torch\.int32"),
        (lambda: pack_rows(W, 5, X), "2 rows from row 5 on are more than the weight's 6"),
        (lambda: pack_rows(W, 0, X.bfloat16()), r"rows is torch\.bfloat16"),
        (lambda: packed(torch.zeros(5, 8), gated=True), "num_outputs is 5; gate and up together"),
        (lambda: packed(torch.zeros(0, 8)), "a weight of 0 x 8 has no elements"),
        (lambda: PackedLinear(torch.zeros(3, dtype=torch.uint8), W.packed), "memory has shape"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
