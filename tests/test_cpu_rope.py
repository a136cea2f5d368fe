"""Rope on the CPU, with the writing of k and v to their pages: exact, and in the right places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pdrt.kernels import cpu, reference
from tests.kernel_cases import assert_as_exact_as_torch, drawn, int32, same_bits

pytestmark = pytest.mark.usefixtures("isa")

DTYPES = [torch.float32, torch.bfloat16]
EPS = 1e-5

NUM_HEADS, NUM_KV_HEADS, PAGE_SIZE, MAX_LEN = 6, 2, 16, 50
SLOTS = int32([3, 17, -1, 16 * 4 + 15, 0])
POSITIONS = int32([0, 49, 7, 7, 1])
# head_dim, rotary_dim
DIMS = [(64, 64), (96, 96), (128, 128), (256, 256)]
DIMS += [(80, 32), (24, 10), (33, 32), (8, 8), (16, 0)]


def rope_inputs(head_dim: int, rotary_dim: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Packed q | k | v, the layer's pages full of NaN, and cos | sin."""
    qkv = drawn(len(SLOTS), (NUM_HEADS + 2 * NUM_KV_HEADS) * head_dim, dtype=dtype)
    pool = torch.full((6, 2, 2, NUM_KV_HEADS, PAGE_SIZE, head_dim), float("nan"), dtype=dtype)
    angles = POSITIONS.max() * drawn(MAX_LEN, rotary_dim // 2, seed=1)
    return qkv, pool[:, 1], torch.cat([angles.cos(), angles.sin()], dim=1)


def rope(
    op: Callable[..., Tensor], qkv: Tensor, layer: Tensor, cos_sin: Tensor, *norms: Tensor | None
) -> Tensor:
    """norms: nothing, or q_norm and k_norm."""
    eps = [EPS] if norms else []
    return op(qkv, layer, SLOTS, POSITIONS, cos_sin, NUM_HEADS, NUM_KV_HEADS, *norms, *eps)


def head_norms(head_dim: int, dtype: torch.dtype) -> list[Tensor]:
    return [1 + drawn(head_dim, dtype=dtype, seed=seed) / 2 for seed in (2, 3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("head_dim", "rotary_dim"), DIMS)
def test_rope_is_as_exact_as_torch(
    head_dim: int, rotary_dim: int, normed: bool, dtype: torch.dtype
) -> None:
    qkv, layer, cos_sin = rope_inputs(head_dim, rotary_dim, dtype)
    norms = head_norms(head_dim, dtype) if normed else []
    results = []
    for op, kind in (
        (cpu.rope_kv_write, dtype),
        (reference.rope_kv_write, dtype),
        (reference.rope_kv_write, torch.float64),
    ):
        pages = layer.to(kind, copy=True)
        weights = [norm.to(kind) for norm in norms]
        query = rope(op, qkv.to(kind, copy=True), pages, cos_sin, *weights)
        results.append((query, pages))
    (query, pages), (torch_query, torch_pages), (exact_query, exact_pages) = results
    assert_as_exact_as_torch(query, torch_query, exact_query)
    assert torch.equal(pages.isnan(), exact_pages.isnan())  # nothing else was written
    assert_as_exact_as_torch(
        pages.nan_to_num(0), torch_pages.nan_to_num(0), exact_pages.nan_to_num(0)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_rotates_q_in_place_and_copies_the_rest_bit_by_bit(dtype: torch.dtype) -> None:
    head_dim, rotary_dim = 80, 32
    qkv, layer, cos_sin = rope_inputs(head_dim, rotary_dim, dtype)
    before = qkv.view(len(SLOTS), -1, head_dim).clone()
    query = rope(cpu.rope_kv_write, qkv, layer, cos_sin)
    after = qkv.view(len(SLOTS), -1, head_dim)
    assert query.data_ptr() == qkv.data_ptr()
    assert same_bits(query, after[:, :NUM_HEADS])
    assert same_bits(after[:, NUM_HEADS:], before[:, NUM_HEADS:])
    assert same_bits(query[..., rotary_dim:], before[:, :NUM_HEADS, rotary_dim:])
    for token, slot in enumerate(SLOTS.tolist()):
        if slot >= 0:
            key, value = layer[slot // PAGE_SIZE, :, :, slot % PAGE_SIZE]
            assert same_bits(
                key[:, rotary_dim:], before[token, NUM_HEADS:-NUM_KV_HEADS, rotary_dim:]
            )
            assert same_bits(value, before[token, -NUM_KV_HEADS:])


def test_rope_refuses_what_is_out_of_range_before_it_writes() -> None:
    qkv, layer, cos_sin = rope_inputs(16, 8, torch.float32)
    before = qkv.clone()
    wrong = {
        r"positions\[1\] is 49, cos_sin has 20": (SLOTS, POSITIONS, cos_sin[:20]),
        r"positions\[0\] is -1": (SLOTS, POSITIONS - 1, cos_sin),
        r"slot_mapping\[0\] is 103, the pool has 96": (SLOTS + 100, POSITIONS, cos_sin),
        r"rotary_dim=18; give an even one up to head_dim=16": (
            SLOTS,
            POSITIONS,
            torch.zeros(50, 18),
        ),
        r"slot_mapping is torch.int64": (SLOTS.long(), POSITIONS, cos_sin),
        r"positions has shape \(1,\)": (SLOTS, POSITIONS[:1], cos_sin),
    }
    for message, (slots, positions, table) in wrong.items():
        with pytest.raises(ValueError, match=message):
            cpu.rope_kv_write(qkv, layer, slots, positions, table, NUM_HEADS, NUM_KV_HEADS)
    assert same_bits(qkv, before)
    assert layer.isnan().all()


def test_normed_heads_have_the_bits_of_the_norm_followed_by_rope() -> None:
    """In float32, where nothing is lost between the two."""
    head_dim, rotary_dim = 80, 32
    qkv, layer, cos_sin = rope_inputs(head_dim, rotary_dim, torch.float32)
    norms, pages = head_norms(head_dim, torch.float32), layer.clone()
    heads = qkv.clone().view(len(SLOTS), -1, head_dim)
    query, key = heads[:, :NUM_HEADS], heads[:, NUM_HEADS:-NUM_KV_HEADS]
    for part, norm in zip((query, key), norms, strict=True):
        rows = part.reshape(-1, head_dim)
        part.copy_(cpu.rms_norm(rows, norm, EPS).view(part.shape))
    expected = rope(cpu.rope_kv_write, heads.view(qkv.shape), pages, cos_sin)
    assert same_bits(rope(cpu.rope_kv_write, qkv, layer, cos_sin, *norms), expected)
    assert same_bits(layer, pages)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_has_the_same_bits_alone_and_in_any_batch(dtype: torch.dtype) -> None:
    qkv, layer, cos_sin = rope_inputs(80, 32, dtype)
    norms, alone, pages = head_norms(80, dtype), qkv.clone(), layer.clone()
    together = rope(cpu.rope_kv_write, qkv, layer, cos_sin, *norms)
    for i in reversed(range(len(SLOTS))):
        one = slice(i, i + 1)
        places = (SLOTS[one], POSITIONS[one], cos_sin, NUM_HEADS, NUM_KV_HEADS)
        query = cpu.rope_kv_write(alone[one], pages, *places, *norms, EPS)
        assert same_bits(query, together[one])
    assert same_bits(pages, layer)


def test_norms_that_do_not_fit_are_named_before_anything_is_written() -> None:
    qkv, layer, cos_sin = rope_inputs(16, 8, torch.float32)
    before, (q_norm, k_norm) = qkv.clone(), head_norms(16, torch.float32)
    wrong = {
        r"q_norm is given alone; give q_norm and k_norm, or neither": (q_norm, None),
        r"k_norm is given alone; give q_norm and k_norm, or neither": (None, k_norm),
        r"q_norm has shape \(8,\), expected \(16,\)": (q_norm[:8], k_norm),
        r"k_norm is torch.bfloat16, expected torch.float32": (q_norm, k_norm.bfloat16()),
        r"k_norm \(16,\) has strides \(2,\)": (q_norm, torch.ones(32)[::2]),
    }
    for message, norms in wrong.items():
        with pytest.raises(ValueError, match=message):
            rope(cpu.rope_kv_write, qkv, layer, cos_sin, *norms)
    assert same_bits(qkv, before)
