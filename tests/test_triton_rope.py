"""Rotation and KV write in Triton: exact, in the right slots, and in no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from pdrt.kernels import reference
from pdrt.kernels.rope_kv_write import head_parts, rope_kv_write
from tests.kernel_cases import assert_as_exact_as_torch, drawn, same_bits
from tests.triton_cases import DEVICE, DTYPES

MAX_LEN = 50
NUM_PAGES = 6


@dataclass(frozen=True)
class Case:
    """Arguments of rope_kv_write, in its order."""

    qkv: Tensor
    kv_layer: Tensor
    slot_mapping: Tensor
    positions: Tensor
    cos_sin: Tensor
    num_heads: int
    num_kv_heads: int
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    norm_eps: float = 1e-5
    interleaved: bool = False
    bias: Tensor | None = None

    def run(self, op: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(q, KV layer), from copies: angles stay float32 for a kernel."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("qkv", "kv_layer", "q_norm", "k_norm", "bias"):
            if values[name] is not None:
                values[name] = values[name].to(dtype, copy=True)
        if dtype is torch.float64:
            values["cos_sin"] = values["cos_sin"].double()
        return op(*values.values()), values["kv_layer"]


def make_case(
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 80,
    rotary_dim: int = 32,
    num_tokens: int = 7,
    page_size: int = 16,
    dtype: torch.dtype = torch.float32,
    norms: bool = False,
    bias: bool = False,
    interleaved: bool = False,
) -> Case:
    """Scattered slots, the third token without one, pages NaN wherever nothing is written."""
    width = (heads[0] + 2 * heads[1]) * head_dim
    layers = torch.full((NUM_PAGES, 2, 2, heads[1], page_size, head_dim), float("nan"))
    slots = torch.randperm(NUM_PAGES * page_size, generator=torch.Generator().manual_seed(5))
    slots[2:3] = -1
    angles = drawn(MAX_LEN, rotary_dim // 2, seed=6) * 9
    norm = [drawn(head_dim, dtype=dtype, seed=i).to(DEVICE) for i in (7, 8)]
    return Case(
        drawn(num_tokens, width, dtype=dtype).to(DEVICE),
        layers.to(DEVICE, dtype)[:, 1],
        slots[:num_tokens].int().to(DEVICE),
        (torch.arange(num_tokens).int() * 7 % MAX_LEN).to(DEVICE),
        torch.cat([angles.cos(), angles.sin()], dim=1).to(DEVICE),
        *heads,
        q_norm=norm[0] if norms else None,
        k_norm=norm[1] if norms else None,
        interleaved=interleaved,
        bias=drawn(width, dtype=dtype, seed=9).to(DEVICE) if bias else None,
    )


def check(case: Case) -> None:
    dtype = case.qkv.dtype
    results = [case.run(rope_kv_write, dtype), *(case.run(reference.rope_kv_write, d) for d in (
        dtype, torch.float64))]  # fmt: skip
    for result, torch_result, exact in zip(*results, strict=True):
        assert torch.equal(result.isnan(), exact.isnan())  # written where it should be, only there
        assert_as_exact_as_torch(result.nan_to_num(), torch_result.nan_to_num(), exact.nan_to_num())


# (head_dim, rotary_dim): whole and partial, one exact tile, two, and masked ones.
ROTARIES = [(64, 64), (80, 32), (96, 96), (128, 128), (64, 16), (80, 20), (120, 120), (256, 64)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), ROTARIES)
def test_q_is_rotated_and_k_and_v_are_in_their_slots(
    head_dim: int, rotary_dim: int, interleaved: bool, dtype: torch.dtype
) -> None:
    check(make_case((3, 1), head_dim, rotary_dim, 4, dtype=dtype, interleaved=interleaved))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(80, 32), (96, 96), (72, 20)])
@pytest.mark.parametrize(("norms", "bias"), [(True, False), (False, True), (True, True)])
def test_heads_are_biased_then_normed_then_rotated(
    norms: bool, bias: bool, head_dim: int, rotary_dim: int, interleaved: bool
) -> None:
    case = make_case((4, 2), head_dim, rotary_dim, norms=norms, bias=bias, interleaved=interleaved)
    check(case)
    check(replace(case, **halved(case)))


def halved(case: Case) -> dict[str, Tensor]:
    tensors = {
        name: getattr(case, name) for name in ("qkv", "kv_layer", "q_norm", "k_norm", "bias")
    }
    return {name: t.half() for name, t in tensors.items() if t is not None}


@pytest.mark.parametrize("heads", [(1, 1), (9, 3), (14, 2), (32, 32), (8, 1)])
@pytest.mark.parametrize("page_size", [16, 64])
def test_any_number_of_heads(heads: tuple[int, int], page_size: int) -> None:
    check(make_case(heads, 64, 64, num_tokens=3, page_size=page_size))


def test_rows_of_qkv_may_lie_apart() -> None:
    case = make_case()
    wide = torch.full((7, case.qkv.shape[1] + 32), float("nan"), device=DEVICE)
    apart = wide[:, : case.qkv.shape[1]]
    apart.copy_(case.qkv)
    layer = case.kv_layer.clone()
    query = rope_kv_write(apart, layer, *list(vars(case).values())[2:7])
    expected_query, expected_layer = case.run(rope_kv_write, torch.float32)
    assert same_bits(query, expected_query)
    assert same_bits(layer, expected_layer)
    assert wide[:, case.qkv.shape[1] :].isnan().all()


def test_a_token_has_the_same_bits_alone_and_in_any_batch() -> None:
    case = make_case(norms=True, num_tokens=6)
    query, layer = case.run(rope_kv_write, torch.float32)
    for i in range(6):
        one = {n: getattr(case, n)[i : i + 1] for n in ("qkv", "slot_mapping", "positions")}
        alone, own = replace(case, **one).run(rope_kv_write, torch.float32)
        assert same_bits(alone, query[i : i + 1])
        written = ~own.isnan()
        assert same_bits(own[written], layer[written])


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's
def test_a_value_that_is_no_number_stays_in_its_place() -> None:
    """inf - inf would make others NaN, were v rotated or normed as k is."""
    case = make_case(norms=True)
    case.qkv[0, -80:] = float("inf")  # the last value head of the first token
    _, layer = case.run(rope_kv_write, torch.float32)
    assert layer.isinf().sum() == 80
    _, expected = case.run(reference.rope_kv_write, torch.float32)
    assert torch.equal(layer.isnan(), expected.isnan())


def test_no_slot_means_nothing_written_but_q_rotated() -> None:
    case = make_case()
    case = replace(case, slot_mapping=torch.full_like(case.slot_mapping, -1))
    query, layer = case.run(rope_kv_write, torch.float32)
    assert layer.isnan().all()
    assert not same_bits(query, case.qkv.view(7, 8, 80)[:, :4])


def test_no_tokens_are_no_launch() -> None:
    assert make_case(num_tokens=0).run(rope_kv_write, torch.float32)[0].shape == (0, 4, 80)


def test_heads_are_cut_without_masks_where_their_size_allows_that() -> None:
    assert head_parts(96, 80, 32) == (32, (16, 0), (32, 16), 2)  # phi-2
    assert head_parts(96, 96, 96) == (32, (32, 16), (0, 0), 2)  # phi-3
    assert head_parts(48, 128, 128) == (16, (64, 0), (0, 0), 4)  # 32 heads, 8 of KV
    assert head_parts(15, 64, 64) == (16, (32, 0), (0, 0), 2)  # a row of 16 is masked
    assert head_parts(96, 80, 20).half == (16, 0)  # 10 wide: masked


def test_arguments_that_do_not_fit_are_named() -> None:
    case = make_case()
    for change, message in [
        ({"slot_mapping": case.slot_mapping.long()}, "slot_mapping is torch.int64, expected"),
        ({"positions": case.positions[:3]}, r"positions has shape \(3,\), expected \(7,\)"),
        ({"kv_layer": case.kv_layer.half()}, "kv_layer is torch.float16, expected torch.float32"),
        ({"cos_sin": case.cos_sin[:, :31].contiguous()}, "rotary_dim=31; give an even one up to"),
        ({"q_norm": drawn(80).to(DEVICE)}, "q_norm is given alone; give q_norm and k_norm"),
        ({"bias": drawn(80).to(DEVICE)}, r"bias has shape \(80,\), expected \(640,\)"),
        ({"num_heads": 5}, r"qkv has shape \(7, 640\), expected \(7, 720\)"),
        ({"qkv": drawn(640, 7).to(DEVICE).T}, r"qkv has last strides \(7,\), expected \(1,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            rope_kv_write(*vars(replace(case, **change)).values())
