"""Sliding windows of paged attention on the CPU: exact, the same bits, nothing read before them."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pdrt import _C
from pdrt.kernels import reference
from pdrt.kernels.cpu import paged_attention
from tests.kernel_cases import (
    AttentionCase,
    assert_as_exact_as_torch,
    attention_case,
    int32,
    same_bits,
)

pytestmark = pytest.mark.usefixtures("isa")

DTYPES = [torch.float32, torch.bfloat16]
PROT_NONE = 0  # of mprotect(2)
WINDOWS = [1, 16, 17, 64, 100, 1000]
HEADS = [(4, 4), (9, 3), (8, 2), (8, 1)]  # groups of 1, 3, 4 and 8
RAGGED = [(1, 1), (1, 17), (5, 5), (1, 200), (40, 133), (3, 64), (1, 65), (13, 63), (1, 129)]


def check_against_float64(case: AttentionCase) -> None:
    exact = case.to(torch.float64).run(reference.paged_attention)
    assert_as_exact_as_torch(case.run(paged_attention), case.run(reference.paged_attention), exact)


def test_the_twin_sees_the_window_and_nothing_else() -> None:
    """Token by token, over keys and values that were cut out by hand."""
    case = attention_case([(5, 40), (7, 7)], window=9, dtype=torch.float64)
    result = case.run(reference.paged_attention)
    for row, token, position in [(0, 0, 35), (0, 4, 39), (1, 5, 0), (1, 11, 6)]:
        pages = case.kv_layer[case.page_table[row].long()].permute(1, 2, 0, 3, 4).flatten(2, 3)
        keys, values = pages[:, 0, max(0, position - 8) : position + 1]
        weights = (case.query[token] @ keys.T * case.scale).softmax(-1)
        torch.testing.assert_close(result[token], weights @ values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [33, 64, 80, 96, 128, 256])
def test_any_window_is_as_exact_as_torch(head_dim: int, dtype: torch.dtype) -> None:
    for num_heads, num_kv_heads in HEADS:
        case = attention_case(
            RAGGED,
            head_dim=head_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            dtype=dtype,
        )
        for window in WINDOWS:
            check_against_float64(replace(case, window=window))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [16, 32, 48, 64, 128, 256])
def test_windows_that_begin_around_a_page_are_right(page_size: int, dtype: torch.dtype) -> None:
    """Of one token, and of a chunk; also in the middle of a block of 64 positions."""
    end = 2 * page_size + 9
    case = attention_case([(1, end), (20, end), (9, end)], page_size=page_size, dtype=dtype)
    for begin in (page_size - 1, page_size, page_size + 1, 2 * page_size):
        for new in (1, 9, 20):
            if (window := end - new + 1 - begin) > 0:
                check_against_float64(replace(case, window=window).with_kv_outside(float("nan")))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_lies_outside_the_window_does_not_matter(dtype: torch.dtype) -> None:
    """Neither slots in pages before the window, nor those before it in its first page."""
    for heads in [*HEADS, (5, 1)]:
        case = attention_case(
            [(1, 200), (3, 131), (40, 133)],
            num_heads=heads[0],
            num_kv_heads=heads[1],
            dtype=dtype,
        )
        for window in WINDOWS[:-1]:
            windowed = replace(case, window=window)
            poisoned = windowed.with_kv_outside(float("nan")).run(paged_attention)
            assert poisoned.isfinite().all()
            assert same_bits(poisoned, windowed.run(paged_attention)), (heads, window)


def test_a_window_of_one_gives_each_token_its_own_value() -> None:
    case = attention_case([(70, 70)], num_heads=3, num_kv_heads=3, window=1)
    values = case.kv_layer[case.page_table[0].long(), 1].transpose(1, 2).flatten(0, 1)[:70]
    assert same_bits(case.run(paged_attention), values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_window_of_all_has_the_bits_of_none(dtype: torch.dtype) -> None:
    case = attention_case(RAGGED, head_dim=40, num_heads=6, num_kv_heads=2, dtype=dtype)
    whole = case.run(paged_attention)
    for window in (200, 201, 2**31, 2**63 - 1):
        assert same_bits(replace(case, window=window).run(paged_attention), whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [*HEADS, (5, 1)])
def test_a_windowed_prompt_in_chunks_has_the_bits_of_the_whole(
    heads: tuple[int, int], dtype: torch.dtype
) -> None:
    """Chunks of one token up to all: every layout of the kernels, against one another."""
    length = 150
    for head_dim, window in [(8, 1), (33, 16), (64, 17), (80, 64), (24, 100)]:
        case = attention_case(
            [(length, length)],
            head_dim=head_dim,
            num_heads=heads[0],
            num_kv_heads=heads[1],
            dtype=dtype,
            window=window,
        )
        whole = case.run(paged_attention)
        for cuts in ([2, 32], [7, 8, 72, 75, 125], list(range(1, length))):
            bounds = [0, *cuts, length]
            spans = [(0, start, end) for start, end in zip(bounds, bounds[1:], strict=False)]
            parts = [case.rows([span]).run(paged_attention) for span in spans]
            assert same_bits(torch.cat(parts), whole), (head_dim, window, cuts)
            assert same_bits(case.rows(spans).run(paged_attention), whole)  # in one batch


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS[:-1])
def test_bits_depend_on_neither_page_size_nor_order_of_pages(
    window: int, dtype: torch.dtype
) -> None:
    results = [
        attention_case(
            [(40, 200), (1, 97)],
            head_dim=24,
            num_heads=3,
            page_size=page_size,
            page_seed=page_seed,
            dtype=dtype,
            window=window,
        ).run(paged_attention)
        for page_size, page_seed in [(16, 0), (16, 1), (32, 2), (48, 5), (128, 3), (256, 4)]
    ]
    assert all(same_bits(result, results[0]) for result in results[1:])


@pytest.mark.usefixtures("one_thread_after")
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    lens = [(200, 200), (1, 900)]
    case = attention_case(lens, head_dim=64, num_heads=9, num_kv_heads=3, window=100)
    alone = case.run(paged_attention)
    for num_threads in (2, 3, 7, 1):
        _C.set_num_threads(num_threads)
        assert same_bits(case.run(paged_attention), alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_new", [1, 3, 20])
def test_pages_before_the_window_are_not_even_read(num_new: int, dtype: torch.dtype) -> None:
    """They may not be read at all here: whoever does so dies, as the same without window shows."""
    head_dim = mmap.PAGESIZE // 16 // dtype.itemsize  # a page of memory for the keys of a page
    drawn = attention_case([(num_new, 200)], head_dim=head_dim, dtype=dtype, window=40)
    memory = mmap.mmap(-1, drawn.kv_layer.numel() * dtype.itemsize)
    layer = torch.frombuffer(memory, dtype=dtype).view(drawn.kv_layer.shape)
    case = replace(drawn, kv_layer=layer.copy_(drawn.kv_layer))

    def run_guarded(case: AttentionCase) -> None:
        for page in case.page_table[0, : drawn.seen(0).start // 16].tolist():
            forbid_access(layer[page])
        assert same_bits(case.run(paged_attention), expected)

    expected = case.run(paged_attention)
    assert exit_code_of_child(lambda: run_guarded(case)) == 0
    assert exit_code_of_child(lambda: run_guarded(replace(case, window=0))) == -signal.SIGSEGV


def forbid_access(part: Tensor) -> None:
    """Whole pages of memory, contiguous."""
    libc = ctypes.CDLL(None, use_errno=True)
    address, size = ctypes.c_void_p(part.data_ptr()), ctypes.c_size_t(part.nbytes)
    assert libc.mprotect(address, size, PROT_NONE) == 0


def exit_code_of_child(body: Callable[[], None]) -> int:
    """Runs it in a fork of this process; minus the signal, if one ends it."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_row_without_new_tokens_is_passed_over() -> None:
    case = attention_case([(3, 20), (2, 40)], window=7)
    with_idle = replace(
        case,
        page_table=case.page_table[[0, 1, 1]].contiguous(),
        cu_seqlens_q=int32([0, 3, 3, 5]),
        seq_lens=int32([20, 17, 40]),
    )
    assert same_bits(with_idle.run(paged_attention), case.run(paged_attention))


def test_a_negative_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window is -1; give 0 for none"):
        attention_case([(3, 20)], window=-1).run(paged_attention)
