"""Decode attention in Triton: exact, in any number of parts, and nothing read beyond a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pdrt.kernels.decode_attention import decode_attention
from pdrt.kernels.decode_work import DecodeWork, plan_decode
from tests.kernel_cases import (
    AttentionCase,
    assert_as_exact_as_torch,
    attention_case,
    int32,
    same_bits,
)
from tests.triton_cases import DEVICE, DTYPES, NOWHERE, exact, on_device, twin, with_stray_pages

# Of one token at least one is there, and lengths lie around the ends of pages and tiles.
RAGGED = (1, 15, 16, 17, 64, 65, 130)
# head_dim, query heads, KV heads: groups of 1, 3, 4 and 8; two tiles, one, one with a mask.
HEADS = [(64, 3, 1), (72, 2, 2), (80, 2, 2), (96, 4, 1), (112, 1, 1), (128, 8, 1), (256, 2, 1)]


def decode_case(lens: Sequence[int] = RAGGED, **options: Any) -> AttentionCase:
    return on_device(attention_case([(1, length) for length in lens], **options))


def work_for(case: AttentionCase, num_sms: int = 1, **options: Any) -> DecodeWork:
    """A list with room for more rows than the case has, as a server's would have."""
    num_rows, num_heads, head_dim = case.query.shape
    work = DecodeWork.allocate(
        num_rows + 3, num_heads, case.kv_layer.shape[2], head_dim, num_sms, DEVICE, **options
    )
    plan_decode(case.seq_lens, work)
    return work


def in_parts(case: AttentionCase, split_tokens: int) -> DecodeWork:
    max_len = case.page_table.shape[1] * case.kv_layer.shape[3]
    return work_for(case, split_tokens=split_tokens, max_seq_len=max_len)


def run(case: AttentionCase, **options: Any) -> Tensor:
    options.setdefault("window", case.window)
    return decode_attention(
        case.query, case.kv_layer, case.page_table, case.seq_lens, case.scale, **options
    )


def check(case: AttentionCase, soft_cap: float = 0.0, **options: Any) -> None:
    lse = torch.full(case.query.shape[:2], float("nan"), device=DEVICE)
    out = run(case, soft_cap=soft_cap, lse=lse, **options)
    exact_out, exact_lse = exact(case, soft_cap)
    assert_as_exact_as_torch(out, twin(case, soft_cap), exact_out)
    torch.testing.assert_close(lse.double(), exact_lse, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "num_heads", "num_kv_heads"), HEADS)
def test_any_head_dim_and_group_is_as_exact_as_torch(
    head_dim: int, num_heads: int, num_kv_heads: int, dtype: torch.dtype
) -> None:
    check(
        decode_case(head_dim=head_dim, num_heads=num_heads, num_kv_heads=num_kv_heads, dtype=dtype)
    )


@pytest.mark.parametrize("page_size", [16, 48, 64, 256])
def test_lengths_around_the_end_of_a_page_are_right(page_size: int) -> None:
    lens = [page_size - 1, page_size, page_size + 1, 2 * page_size + 1]
    check(decode_case(lens, page_size=page_size, dtype=torch.float16))


@pytest.mark.parametrize("window", [1, 16, 50, 1000])
def test_a_window_is_as_exact_as_torch(window: int) -> None:
    case = decode_case(head_dim=80, window=window, page_size=32)
    check(case)
    check(case, work=work_for(case, window=window))


@pytest.mark.parametrize("soft_cap", [0.5, 30.0])
def test_a_soft_cap_is_as_exact_as_torch(soft_cap: float) -> None:
    check(decode_case(head_dim=64, dtype=torch.float16), soft_cap)


def test_scores_far_apart_neither_overflow_nor_lose_the_largest() -> None:
    case = decode_case(head_dim=16)
    check(replace(case, query=case.query * 100))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_in_parts_is_as_exact_as_a_row_in_one(dtype: torch.dtype) -> None:
    case = decode_case([600, 3, 64, 65, 129], head_dim=80, num_heads=3, dtype=dtype)
    for work in (in_parts(case, 64), in_parts(case, 1024), work_for(case, num_sms=4)):
        check(case, work=work)


def test_a_list_made_without_a_window_serves_layers_with_one() -> None:
    case = decode_case([300, 70], head_dim=16, window=20)
    check(case, work=in_parts(replace(case, window=0), 64))  # the first parts see nothing


def test_more_items_than_programs_are_all_computed() -> None:
    case = decode_case([640, 640], head_dim=16)
    work = in_parts(case, 64)
    assert int(work.row_items[2]) == 20
    check(case, work=replace(work, target_items=1))


def test_with_fixed_parts_a_row_has_the_same_bits_alone_and_in_any_batch() -> None:
    case = decode_case([300, 1, 64, 129], head_dim=80, num_heads=2, dtype=torch.float16)
    together = run(case, work=in_parts(case, 128))
    for row in range(4):
        alone = replace(
            case,
            query=case.query[[row]],
            page_table=case.page_table[[row]].contiguous(),
            seq_lens=case.seq_lens[[row]],
        )
        assert same_bits(run(alone, work=in_parts(alone, 128)), together[[row]])


def test_bits_depend_on_neither_page_size_nor_order_of_pages() -> None:
    results = []
    for page_size, page_seed in [(16, 0), (16, 1), (48, 2), (64, 3), (256, 4)]:
        case = decode_case([200, 97], head_dim=24, page_size=page_size, page_seed=page_seed)
        results.append(run(case, work=in_parts(case, 64)))
    assert all(same_bits(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize("page_size", [16, 64])
def test_nothing_outside_a_row_is_read(page_size: int, window: int) -> None:
    case = decode_case([1, 17, 70, 140], head_dim=72, page_size=page_size, window=window)
    expected = run(case)
    assert expected.isfinite().all()
    poisoned = case.with_kv_outside(float("nan"))
    assert same_bits(run(poisoned), expected)
    used = {page for row in case.page_table.tolist() for page in row}
    stray = min(set(range(len(case.kv_layer))) - used)
    for page in (stray, NOWHERE, -NOWHERE):
        assert same_bits(run(with_stray_pages(poisoned, page)), expected)


def test_padded_rows_are_left_as_they_are() -> None:
    case = decode_case([30, 70], head_dim=16)
    padded = replace(
        case,
        query=torch.cat([case.query, case.query]),
        page_table=torch.cat([case.page_table, torch.zeros_like(case.page_table) + NOWHERE]),
        seq_lens=torch.cat([case.seq_lens, torch.zeros_like(case.seq_lens)]),
    )
    out, lse = torch.full_like(padded.query, 7.0), torch.full((4, 2), 7.0, device=DEVICE)
    run(padded, out=out, lse=lse)
    assert same_bits(out[:2], run(case))
    assert (out[2:] == 7).all()
    assert (lse[2:] == 7).all()


def test_only_padded_rows_are_no_work() -> None:
    case = decode_case([30], head_dim=16)
    out = torch.full_like(case.query, 7.0)
    run(replace(case, seq_lens=torch.zeros_like(case.seq_lens)), out=out)
    assert (out == 7).all()


def test_no_rows_are_an_empty_result() -> None:
    case = decode_case([30], head_dim=16)
    none = replace(case, query=case.query[:0], page_table=case.page_table[:0], seq_lens=int32([]))
    assert run(replace(none, seq_lens=none.seq_lens.to(DEVICE))).shape == (0, 2, 16)


def test_the_result_goes_to_any_heads_of_a_larger_tensor() -> None:
    case = decode_case([30, 300], head_dim=16)
    wide = torch.zeros(2, 5, 16, device=DEVICE)
    result = run(case, out=wide[:, 1:3])
    assert result.data_ptr() == wide[:, 1:3].data_ptr()
    assert same_bits(result, run(case))
    assert (wide[:, [0, 3, 4]] == 0).all()


@pytest.mark.gpu
def test_a_step_in_a_cuda_graph_follows_the_lengths() -> None:
    case = decode_case([900, 30, 65], head_dim=80, num_heads=8, num_kv_heads=8)
    work, out = work_for(case, num_sms=132), torch.empty_like(case.query)
    graph = torch.cuda.CUDAGraph()
    run(case, work=work, out=out)
    with torch.cuda.graph(graph):
        plan_decode(case.seq_lens, work)
        run(case, work=work, out=out)
    for lens in ([900, 30, 65], [1, 29, 64], [700, 2, 33]):
        case.seq_lens.copy_(int32(lens))
        graph.replay()
        assert_as_exact_as_torch(out, twin(case), exact(case)[0])


def test_arguments_that_do_not_fit_are_named() -> None:
    case = decode_case([20, 33], head_dim=16)
    layer = case.kv_layer
    wrong: dict[str, dict[str, Any]] = {
        r"query is torch.float64; give one of": {"query": case.query.double()},
        r"kv_layer is torch.bfloat16, expected torch.float32": {"kv_layer": layer.bfloat16()},
        r"kv_layer has shape .*, expected": {"kv_layer": layer[:, :1]},
        r"page_size=24; give a multiple of 16": {"kv_layer": layer.new_zeros(9, 2, 1, 24, 16)},
        r"query has num_heads=2; give a multiple of num_kv_heads=3": {
            "kv_layer": layer.new_zeros(9, 2, 3, 16, 16)
        },
        r"kv_layer has last strides": {"kv_layer": layer.transpose(3, 4)},
        r"query has strides=.*; give multiples of 8": {
            # made there: a copy to a GPU would close the gaps between its rows
            "query": torch.zeros(2, 2, 20, device=DEVICE)[..., :16]
        },
        r"page_table is torch.int64": {"page_table": case.page_table.long()},
        r"seq_lens has 1 rows, expected 2": {
            "seq_lens": case.seq_lens[:1],
            "page_table": case.page_table[:1],
        },
        r"scale=0; give one above 0": {"scale": 0},
    }
    for message, change in wrong.items():
        change = {k: v.to(DEVICE) if isinstance(v, Tensor) else v for k, v in change.items()}
        with pytest.raises(ValueError, match=message):
            run(replace(case, **change))
    with pytest.raises(ValueError, match="query is on meta"):
        run(replace(case, query=case.query.to("meta")))
    with pytest.raises(ValueError, match="soft_cap=-1.0; give one above 0"):
        run(case, soft_cap=-1.0)
    with pytest.raises(ValueError, match="head_dim=264; give a multiple of 8 in 8 .. 256"):
        run(decode_case([20], head_dim=264))


def test_a_work_list_made_for_something_else_is_refused() -> None:
    case = decode_case([20, 33], head_dim=16)
    window = replace(case, window=8)
    with pytest.raises(ValueError, match="work was made for window=8, this call has window=0"):
        run(case, work=work_for(window, window=8))
    with pytest.raises(ValueError, match=r"made for heads \(2, 16\), query has \(2, 64\)"):
        run(decode_case([20, 33], head_dim=64), work=work_for(case))
    with pytest.raises(ValueError, match="made for 5 rows, query has 6"):
        run(decode_case([9] * 6, head_dim=16), work=work_for(case))
    with pytest.raises(ValueError, match="made for rows of 48, page_table holds 304"):
        run(decode_case([300, 3], head_dim=16), work=in_parts(case, 64))
