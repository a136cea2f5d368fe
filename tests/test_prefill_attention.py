"""Prefill attention in Triton: exact in whole and in chunks, and nothing read beyond a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pdrt.kernels.prefill_attention import choose_config, prefill_attention
from pdrt.kernels.prefill_tiles import PrefillTiles, plan_prefill, prefill_tiles
from tests.kernel_cases import (
    AttentionCase,
    assert_as_exact_as_torch,
    attention_case,
    int32,
    same_bits,
)
from tests.triton_cases import DEVICE, DTYPES, NOWHERE, exact, on_device, twin, with_stray_pages

# (new tokens, all tokens): of one, of all, of a chunk; around the ends of pages and tiles.
RAGGED = ((1, 1), (1, 17), (5, 5), (1, 130), (40, 133), (3, 64), (66, 66), (13, 63))
# head_dim, query heads, KV heads: groups of 1, 3, 4 and 8; two tiles, one, one with a mask.
HEADS = [(64, 3, 1), (72, 1, 1), (80, 2, 2), (96, 4, 1), (112, 1, 1), (128, 8, 1), (256, 2, 1)]


def prefill_case(lens: Sequence[tuple[int, int]] = RAGGED, **options: Any) -> AttentionCase:
    return on_device(attention_case(lens, **options))


def tiles_of(case: AttentionCase, block_m: int = 32, num_splits: int = 1) -> PrefillTiles:
    query_lens = case.cu_seqlens_q.diff().tolist()
    return prefill_tiles(query_lens, case.seq_lens.tolist(), block_m, num_splits).to(DEVICE)


def run(case: AttentionCase, tiles: PrefillTiles | None = None, **options: Any) -> Tensor:
    return prefill_attention(
        case.query,
        case.kv_layer,
        case.page_table,
        case.cu_seqlens_q,
        case.seq_lens,
        case.scale,
        tiles=tiles or tiles_of(case),
        window=case.window,
        **options,
    )


def check(case: AttentionCase, tiles: PrefillTiles | None = None, soft_cap: float = 0.0) -> None:
    lse = torch.full(case.query.shape[:2], float("nan"), device=DEVICE)
    out = run(case, tiles, soft_cap=soft_cap, lse=lse)
    exact_out, exact_lse = exact(case, soft_cap)
    assert_as_exact_as_torch(out, twin(case, soft_cap), exact_out)
    torch.testing.assert_close(lse.double(), exact_lse, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("head_dim", "num_heads", "num_kv_heads"), HEADS)
def test_any_head_dim_and_group_is_as_exact_as_torch(
    head_dim: int, num_heads: int, num_kv_heads: int, dtype: torch.dtype
) -> None:
    check(
        prefill_case(head_dim=head_dim, num_heads=num_heads, num_kv_heads=num_kv_heads, dtype=dtype)
    )


@pytest.mark.parametrize("page_size", [16, 48, 64, 256])
def test_lengths_around_the_end_of_a_page_are_right(page_size: int) -> None:
    ends = [page_size - 1, page_size, page_size + 1, 2 * page_size + 1]
    rows = [(1, end) for end in ends] + [(min(end, 20), end) for end in ends]
    check(prefill_case(rows, page_size=page_size, num_heads=1, dtype=torch.float16))


@pytest.mark.parametrize("block_m", [5, 64, 128])
def test_tiles_of_any_size_give_the_same(block_m: int) -> None:
    case = prefill_case([(7, 7), (130, 150)], head_dim=16, dtype=torch.float16)
    check(case, tiles_of(case, block_m))


@pytest.mark.parametrize("window", [1, 16, 50, 1000])
def test_a_window_is_as_exact_as_torch(window: int) -> None:
    check(prefill_case([*RAGGED, (60, 300)], head_dim=80, num_heads=1, window=window, page_size=32))


@pytest.mark.parametrize("soft_cap", [0.5, 30.0])
def test_a_soft_cap_is_as_exact_as_torch(soft_cap: float) -> None:
    check(prefill_case(head_dim=64, dtype=torch.float16), soft_cap=soft_cap)


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kv_in_parts_is_as_exact_as_in_one(dtype: torch.dtype, window: int) -> None:
    lens = [(5, 5), (20, 300), (3, 64)]
    case = prefill_case(lens, head_dim=80, num_heads=1, dtype=dtype, window=window)
    check(case, tiles_of(case, num_splits=3))


def test_more_heads_than_a_tile_has_rows_are_all_computed() -> None:
    check(prefill_case([(3, 20)], head_dim=16, num_heads=40))


def test_a_prompt_in_chunks_has_the_bits_of_the_whole() -> None:
    length = 100
    case = attention_case([(length, length)], head_dim=80, num_heads=3, dtype=torch.float16)
    whole = run(on_device(case))
    for cuts in ([2, 32], [7, 8, 72, 75]):
        bounds = [0, *cuts, length]
        chunks = [(0, a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        parts = [run(on_device(case.rows([chunk]))) for chunk in chunks]
        assert same_bits(torch.cat(parts), whole), cuts
        assert same_bits(run(on_device(case.rows(chunks[::-1]))), torch.cat(parts[::-1]))


def test_bits_depend_on_neither_page_size_nor_order_of_pages() -> None:
    results = []
    for page_size, page_seed in [(16, 0), (16, 1), (48, 2), (128, 3)]:
        case = prefill_case([(40, 140)], head_dim=24, page_size=page_size, page_seed=page_seed)
        results.append(run(case))
    assert all(same_bits(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize("page_size", [16, 128])
def test_nothing_outside_a_row_is_read(page_size: int, window: int) -> None:
    case = prefill_case(
        [(1, 1), (9, 17), (20, 140)],
        head_dim=72,
        page_size=page_size,
        window=window,
        dtype=torch.float16,
    )
    expected = run(case)
    assert expected.isfinite().all()
    poisoned = case.with_kv_outside(float("nan"))
    assert same_bits(run(poisoned), expected)
    used = {page for row in case.page_table.tolist() for page in row}
    stray = min(set(range(len(case.kv_layer))) - used)
    for page in (stray, NOWHERE, -NOWHERE):
        assert same_bits(run(with_stray_pages(poisoned, page)), expected)


def test_a_row_without_new_tokens_is_passed_over() -> None:
    case = prefill_case([(3, 20), (2, 40)])
    with_idle = replace(
        case,
        page_table=case.page_table[[0, 1, 1]].contiguous(),
        cu_seqlens_q=int32([0, 3, 3, 5]).to(DEVICE),
        seq_lens=int32([20, 17, 40]).to(DEVICE),
    )
    assert same_bits(run(with_idle), run(case))


def test_no_rows_are_an_empty_result() -> None:
    assert run(prefill_case([])).shape == (0, 2, 16)


def test_the_result_goes_where_it_is_asked_to() -> None:
    case = prefill_case([(3, 20)])
    out = torch.full_like(case.query, float("nan"))
    assert run(case, out=out) is out
    assert same_bits(out, run(case))


def test_tiles_cover_every_new_token_once_and_the_longest_come_first() -> None:
    query_lens, seq_lens = [70, 0, 1, 64], [70, 9, 300, 100]
    tiles = prefill_tiles(query_lens, seq_lens, 32)
    # by tokens seen: row 2 sees 300; row 3 ends at 100 and at 68; row 0 at 70, 64 and 32
    assert tiles.table.tolist() == [[2, 0], [3, 32], [0, 64], [3, 0], [0, 32], [0, 0]]
    assert prefill_tiles([], [], 32).table.shape == (0, 2)


def test_a_plan_takes_large_tiles_if_they_fill_the_card_else_small_ones_in_parts() -> None:
    long = plan_prefill([8192], [8192], 32, 32, 132)
    assert (long.block_m, long.num_splits) == (128, 1)
    short = plan_prefill([64], [4096], 32, 8, 132)
    assert (short.block_m, short.num_splits) == (16, 8)  # 4 tiles of 8 KV heads, and no part of
    assert plan_prefill([64], [1024], 32, 8, 132).num_splits == 2  # less than 512 tokens
    for query_len in (1, 64, 8192):
        invariant = plan_prefill([query_len], [8192], 32, 8, 132, batch_invariant=True)
        assert (invariant.block_m, invariant.num_splits) == (32, 1)


def test_wide_heads_and_float32_get_tiles_that_fit_the_registers() -> None:
    assert choose_config(128, 80, torch.bfloat16, 90).block_m == 128
    assert choose_config(128, 256, torch.bfloat16, 80).block_m == 64
    assert choose_config(128, 80, torch.float32, 90).block_m == 32


def test_arguments_that_do_not_fit_are_named() -> None:
    case = prefill_case([(3, 20), (1, 33)])
    layer = case.kv_layer
    wrong: dict[str, dict[str, Any]] = {
        r"kv_layer is torch.bfloat16, expected torch.float32": {"kv_layer": layer.bfloat16()},
        r"cu_seqlens_q has shape \(2,\), expected \(3,\)": {"cu_seqlens_q": case.cu_seqlens_q[:2]},
        r"cu_seqlens_q .* expected a contiguous": {
            "cu_seqlens_q": case.cu_seqlens_q.repeat_interleave(2)[::2]
        },
        r"page_table is torch.int64": {"page_table": case.page_table.long()},
        r"scale=-1; give one above 0": {"scale": -1},
    }
    tiles = tiles_of(case)
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=message):
            run(replace(case, **change), tiles)
    with pytest.raises(ValueError, match="tiles.table is torch.int64, expected torch.int32"):
        run(case, replace(tiles, table=tiles.table.long()))
    with pytest.raises(ValueError, match="row 1 has 5 new tokens, but 4 in all"):
        prefill_tiles([1, 5], [1, 4], 32)
    with pytest.raises(ValueError, match="block_m=0, num_splits=1; give 1 or more"):
        prefill_tiles([1], [1], 0)
