"""Norms, activations and rope on the CPU: exact, and row by row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pdrt import _C
from pdrt.kernels import cpu, reference
from tests.kernel_cases import assert_as_exact_as_torch, int32, same_bits

pytestmark = pytest.mark.usefixtures("isa")

DTYPES = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1), (3, 33), (17, 80), (2, 576), (5, 2560)]
EPS = 1e-5


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check_against_float64(name: str, *args: Tensor | float) -> None:
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


def test_a_layer_norm_far_from_zero_keeps_its_variance() -> None:
    x = drawn(4, 80) + 1000
    check_against_float64("layer_norm", x, torch.ones(80), torch.zeros(80), EPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_as_exact_as_torch(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = drawn(shape[0], 2 * shape[1], dtype=dtype) * 6
    check_against_float64("silu_and_mul", x)
    check_against_float64("gelu_tanh", x)


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
        cpu.silu_and_mul,
        cpu.gelu_tanh,
    ):
        together = op(x)
        assert all(same_bits(op(x[i : i + 1]), together[i : i + 1]) for i in range(len(x)))


@pytest.mark.usefixtures("one_thread_after")
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    x = drawn(600, 1000)
    alone = cpu.gelu_tanh(x)
    _C.set_num_threads(3)
    assert same_bits(cpu.gelu_tanh(x), alone)


NUM_HEADS, NUM_KV_HEADS, PAGE_SIZE, MAX_LEN = 6, 2, 16, 50
SLOTS = int32([3, 17, -1, 16 * 4 + 15, 0])
POSITIONS = int32([0, 49, 7, 7, 1])


def rope_inputs(head_dim: int, rotary_dim: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Packed q | k | v, the layer's pages full of NaN, and cos | sin."""
    qkv = drawn(len(SLOTS), (NUM_HEADS + 2 * NUM_KV_HEADS) * head_dim, dtype=dtype)
    pool = torch.full((6, 2, 2, NUM_KV_HEADS, PAGE_SIZE, head_dim), float("nan"), dtype=dtype)
    angles = POSITIONS.max() * drawn(MAX_LEN, rotary_dim // 2, seed=1)
    return qkv, pool[:, 1], torch.cat([angles.cos(), angles.sin()], dim=1)


def rope(op: Callable[..., Tensor], qkv: Tensor, layer: Tensor, cos_sin: Tensor) -> Tensor:
    return op(qkv, layer, SLOTS, POSITIONS, cos_sin, NUM_HEADS, NUM_KV_HEADS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("head_dim", "rotary_dim"), [(64, 64), (80, 32), (24, 10), (33, 32), (8, 8), (16, 0)]
)
def test_rope_is_as_exact_as_torch(head_dim: int, rotary_dim: int, dtype: torch.dtype) -> None:
    qkv, layer, cos_sin = rope_inputs(head_dim, rotary_dim, dtype)
    results = []
    for op, kind in (
        (cpu.rope_kv_write, dtype),
        (reference.rope_kv_write, dtype),
        (reference.rope_kv_write, torch.float64),
    ):
        pages = layer.to(kind, copy=True)
        query = rope(op, qkv.to(kind, copy=True), pages, cos_sin)
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


def test_arguments_that_do_not_fit_are_named() -> None:
    x, weight = drawn(3, 8), drawn(8)
    with pytest.raises(ValueError, match=r"x is torch.float16, expected torch.float32"):
        cpu.gelu_tanh(x.half())
    with pytest.raises(ValueError, match=r"x has 7 columns; gate and up need an even number"):
        cpu.silu_and_mul(x[:, :7].contiguous())
    with pytest.raises(ValueError, match=r"x \(8, 3\) has strides \(1, 8\), expected a contig"):
        cpu.gelu_tanh(x.T)
    with pytest.raises(ValueError, match=r"weight has shape \(3,\), expected \(8,\)"):
        cpu.rms_norm(x, drawn(3), EPS)
    with pytest.raises(ValueError, match=r"bias is torch.bfloat16, expected torch.float32"):
        cpu.layer_norm(x, weight, weight.bfloat16(), EPS)
    with pytest.raises(ValueError, match=r"residual has shape \(2, 8\), expected \(3, 8\)"):
        cpu.rms_norm(x, weight, EPS, x[:2])


def test_an_unknown_instruction_set_or_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="isa is 'mmx'; give avx512 or portable"):
        _C.set_cpu_isa("mmx")
    with pytest.raises(ValueError, match="num_threads is 0; give 1 or more"):
        _C.set_num_threads(0)


AFTER_FORK = """
import os
import numpy as np
from pdrt import _C

def gelu(x):
    out = np.empty_like(x)
    addresses = {"out": out.ctypes.data, "x": x.ctypes.data}
    _C.cpu_gelu_tanh(**addresses, num_rows=1000, size=1000, is_bfloat16=False)
    return out

x = np.linspace(-9, 9, 1_000_000, dtype=np.float32)
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
