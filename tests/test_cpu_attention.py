"""Paged attention on the CPU: exact, and the same bits whatever runs beside it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch

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
HEAD_DIMS = [8, 24, 33, 64, 72, 80, 96, 128, 256]
HEADS = [(4, 4), (9, 3), (8, 2), (8, 1), (5, 1)]  # groups of 1, 3, 4, 8 and an odd 5
RAGGED = [(1, 1), (1, 17), (5, 5), (1, 200), (40, 133), (3, 64), (1, 65), (13, 63)]


def check_against_float64(case: AttentionCase) -> None:
    exact = case.to(torch.float64).run(reference.paged_attention)
    assert_as_exact_as_torch(case.run(paged_attention), case.run(reference.paged_attention), exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_any_head_dim_and_group_is_as_exact_as_torch(head_dim: int, dtype: torch.dtype) -> None:
    for num_heads, num_kv_heads in HEADS:
        case = attention_case(
            RAGGED,
            head_dim=head_dim,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            dtype=dtype,
        )
        check_against_float64(case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("page_size", [16, 32, 48, 64, 128, 256])
def test_lengths_around_the_end_of_a_page_are_right(page_size: int, dtype: torch.dtype) -> None:
    ends = [page_size - 1, page_size, page_size + 1, 2 * page_size, 2 * page_size + 1]
    rows = [(1, end) for end in ends] + [(min(end, 20), end) for end in ends]
    check_against_float64(attention_case(rows, page_size=page_size, dtype=dtype))


def test_a_long_prompt_is_right() -> None:
    case = attention_case([(300, 1500)], head_dim=64, num_heads=3)
    check_against_float64(case)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_far_apart_neither_overflow_nor_lose_the_largest(dtype: torch.dtype) -> None:
    case = attention_case([(1, 90), (20, 90)], head_dim=16, dtype=dtype)
    check_against_float64(replace(case, query=case.query * 1000))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
def test_a_prompt_in_chunks_has_the_bits_of_the_whole(
    heads: tuple[int, int], dtype: torch.dtype
) -> None:
    length = 150
    for head_dim in (8, 33, 64, 80):
        case = attention_case(
            [(length, length)],
            head_dim=head_dim,
            num_heads=heads[0],
            num_kv_heads=heads[1],
            dtype=dtype,
        )
        whole = case.run(paged_attention)
        for cuts in ([2, 32], [7, 8, 72, 75, 125], list(range(1, length))):
            bounds = [0, *cuts, length]
            parts = [
                case.rows([(0, start, end)]).run(paged_attention)
                for start, end in zip(bounds, bounds[1:], strict=False)
            ]
            assert same_bits(torch.cat(parts), whole), (head_dim, cuts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 611])
def test_chunks_around_the_end_of_a_range_have_the_bits_of_the_whole(
    window: int, dtype: torch.dtype
) -> None:
    """Positions are summed 512 by 512; chunks of one token, of few and of many meet there."""
    length = 1050
    for head_dim, heads in ((24, 1), (33, 2), (40, 3)):
        case = attention_case(
            [(length, length)],
            head_dim=head_dim,
            num_heads=2 * heads,
            num_kv_heads=2,
            dtype=dtype,
            window=window,
        )
        whole = case.run(paged_attention)
        spans = [(510, 511), (511, 512), (512, 513), (509, 514), (500, 540), (1021, 1026)]
        spans += [(610, 612), (1023, 1024), (1024, 1025), (1000, 1050)]
        parts = case.rows([(0, start, end) for start, end in spans]).run(paged_attention)
        expected = torch.cat([whole[start:end] for start, end in spans])
        assert same_bits(parts, expected), head_dim


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(dtype: torch.dtype) -> None:
    lens = [(n, n) for n in (70, 3, 129, 1, 64)]
    case = attention_case(lens, head_dim=80, num_heads=6, num_kv_heads=2, dtype=dtype)
    spans = [(0, 60, 70), (1, 2, 3), (2, 0, 129), (3, 0, 1), (4, 63, 64)]
    alone = [case.rows([span]).run(paged_attention) for span in spans]
    together = case.rows(spans).run(paged_attention)
    assert same_bits(together, torch.cat(alone))
    backwards = case.rows(spans[::-1]).run(paged_attention)
    assert same_bits(backwards, torch.cat(alone[::-1]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_depend_on_neither_page_size_nor_order_of_pages(dtype: torch.dtype) -> None:
    results = [
        attention_case(
            [(40, 200), (1, 97)],
            head_dim=24,
            num_heads=3,
            page_size=page_size,
            page_seed=page_seed,
            dtype=dtype,
        ).run(paged_attention)
        for page_size, page_seed in [(16, 0), (16, 1), (32, 2), (128, 3), (256, 4)]
    ]
    assert all(same_bits(result, results[0]) for result in results[1:])


@pytest.mark.usefixtures("one_thread_after")
def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    case = attention_case([(200, 200), (1, 900)], head_dim=64, num_heads=9, num_kv_heads=3)
    alone = case.run(paged_attention)
    for num_threads in (2, 3, 7, 1):
        _C.set_num_threads(num_threads)
        assert same_bits(case.run(paged_attention), alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("one_thread_after")
def test_a_long_row_in_parts_has_the_bits_that_it_has_in_one(dtype: torch.dtype) -> None:
    """Alone it is cut into its ranges; beside 40 like it each row is one piece of work."""
    lens = [(1, 2700), (3, 2699)] + [(1, 2700)] * 40
    case = attention_case(lens, head_dim=40, num_heads=3, num_kv_heads=1, dtype=dtype)
    for window in (0, 1101):
        together = replace(case, window=window).run(paged_attention)
        check_against_float64(alone := replace(case.leading(2), window=window))
        for num_threads in (1, 2, 3):
            _C.set_num_threads(num_threads)
            assert same_bits(alone.run(paged_attention), together[:4])


@pytest.mark.usefixtures("one_thread_after")
def test_a_long_row_of_one_head_keeps_two_threads_busy() -> None:
    case = attention_case([(1, 32_000)], head_dim=64, num_heads=3, num_kv_heads=1)
    _C.set_num_threads(2)

    def share_of_the_other() -> float:
        own, both = time.thread_time(), time.process_time()
        case.run(paged_attention)
        own, both = time.thread_time() - own, time.process_time() - both
        return 1 - own / both

    deadline = time.monotonic() + 30  # others may have the second core for a while
    while (share := share_of_the_other()) < 0.25:
        assert time.monotonic() < deadline, share


@pytest.mark.usefixtures("one_thread_after")
def test_callers_on_several_threads_each_get_their_own_result() -> None:
    _C.set_num_threads(2)
    cases = [attention_case([(100, 100 + i)], head_dim=64, num_heads=8, seed=i) for i in range(4)]
    expected = [case.run(paged_attention) for case in cases]
    wrong: list[int] = []

    def call(i: int) -> None:
        for _ in range(10):
            if not same_bits(cases[i].run(paged_attention), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_sees_nothing_of_the_tokens_after_it(dtype: torch.dtype) -> None:
    case = attention_case([(100, 100)], head_dim=24, num_heads=2, dtype=dtype)
    before = case.run(paged_attention)
    poisoned = case.kv_layer.clone()
    for position in (71, 70, 32):  # odd and even, since bfloat16 may be multiplied in pairs
        page, offset = case.page_table[0, position // 16].item(), position % 16
        poisoned[page, :, :, offset] = float("nan")
        after = replace(case, kv_layer=poisoned).run(paged_attention)
        assert same_bits(after[:position], before[:position])
        assert after[position:].isnan().all()


def test_what_lies_in_unused_slots_does_not_matter() -> None:
    case = attention_case([(33, 50), (1, 17)], head_dim=40, num_heads=4, num_kv_heads=2)
    assert case.kv_layer.isnan().any()  # the builder leaves NaN there
    filled = replace(case, kv_layer=case.kv_layer.nan_to_num(1e30))
    result = case.run(paged_attention)
    assert result.isfinite().all()
    assert same_bits(result, filled.run(paged_attention))


def test_no_rows_are_an_empty_result() -> None:
    assert attention_case([]).run(paged_attention).shape == (0, 2, 16)


def test_a_row_without_new_tokens_is_passed_over() -> None:
    case = attention_case([(3, 20), (2, 40)])
    with_idle = replace(
        case,
        page_table=case.page_table[[0, 1, 1]].contiguous(),
        cu_seqlens_q=int32([0, 3, 3, 5]),
        seq_lens=int32([20, 17, 40]),
    )
    assert same_bits(with_idle.run(paged_attention), case.run(paged_attention))


def test_the_result_goes_where_it_is_asked_to() -> None:
    case = attention_case([(3, 20)])
    out = torch.full((3, 2, 16), float("nan"))
    result = paged_attention(
        case.query,
        case.kv_layer,
        case.page_table,
        case.cu_seqlens_q,
        case.seq_lens,
        case.scale,
        out=out,
    )
    assert result is out
    assert same_bits(out, case.run(paged_attention))


def test_arguments_that_do_not_fit_are_named() -> None:
    case = attention_case([(3, 20), (1, 33)])
    layer = case.kv_layer
    wrong = {
        r"query is torch.float64, expected torch.float32": {"query": case.query.double()},
        r"kv_layer is torch.bfloat16, expected torch.float32": {"kv_layer": layer.bfloat16()},
        r"kv_layer has shape .*, expected": {"kv_layer": layer[:, :1]},
        r"page_size=20; give a multiple of 16": {"kv_layer": torch.zeros(9, 2, 1, 20, 16)},
        r"query has num_heads=2; give a multiple of num_kv_heads=3": {
            "kv_layer": torch.zeros(9, 2, 3, 16, 16)
        },
        r"kv_layer has last strides": {"kv_layer": layer.transpose(3, 4)},
        r"page_table is torch.int64, expected torch.int32": {"page_table": case.page_table.long()},
        r"page_table .* expected a contiguous": {"page_table": case.page_table[:, ::2]},
        r"seq_lens has shape \(1,\), expected \(2,\)": {"seq_lens": int32([20])},
        r"cu_seqlens_q begins with 1": {"cu_seqlens_q": int32([1, 3, 4])},
        r"cu_seqlens_q ends with 5, but query has 4": {"cu_seqlens_q": int32([0, 3, 5])},
        r"cu_seqlens_q falls from 7 to 4 at row 1": {"cu_seqlens_q": int32([0, 7, 4])},
        r"seq_lens\[0\] is 2, less than the row's 3": {"seq_lens": int32([2, 33])},
        r"seq_lens\[1\] is 49, but page_table has 3 pages of 16": {"seq_lens": int32([20, 49])},
        r"page_table\[1, 0\] is 7, the pool has 7": {"page_table": case.page_table * 0 + 7},
    }
    wrong[r"page_table\[1, 0\] is 7, the pool has 7"]["page_table"][0] = 0
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=message):
            replace(case, **change).run(paged_attention)
    with pytest.raises(ValueError, match="query is on meta"):
        replace(case, query=case.query.to("meta")).run(paged_attention)
