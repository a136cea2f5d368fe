"""The work list of a decode step: every position of every row once, in parts as asked for."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from pdrt.kernels.decode_work import CTAS_PER_SM, MIN_TILES, TILE_TOKENS, DecodeWork, plan_decode
from tests.kernel_cases import int32
from tests.triton_cases import DEVICE

Item = tuple[int, int, int, int]  # row, begin, end, parts of the row


def allocate(max_rows: int, num_kv_heads: int = 1, num_sms: int = 1, **options: int) -> DecodeWork:
    return DecodeWork.allocate(max_rows, num_kv_heads, num_kv_heads, 8, num_sms, DEVICE, **options)


def planned(lens: list[int], work: DecodeWork) -> list[list[Item]]:
    """The items of each row."""
    plan_decode(lens_on_device(lens), work)
    bounds = work.row_items[: len(lens) + 1].tolist()
    items = [tuple(item) for item in work.items.tolist()]
    return [items[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]


def lens_on_device(lens: list[int]) -> Tensor:
    return int32(lens).to(DEVICE)


def check_cover(lens: list[int], window: int, rows: list[list[Item]]) -> None:
    for row, (length, items) in enumerate(zip(lens, rows, strict=True)):
        ends = [max(0, length - window) if window else 0, *(item[2] for item in items)]
        assert [item[1] for item in items] == ends[:-1], "each part begins where the last ended"
        assert ends[-1] == length
        assert all(item[0] == row and item[3] == len(items) for item in items)
        assert all(begin < end for _, begin, end, _ in items)
        assert all(end % TILE_TOKENS == 0 for end in ends[1:-1])


@pytest.mark.parametrize("seed", range(4))
def test_items_cover_every_row_exactly_and_fit_the_list(seed: int) -> None:
    draw = random.Random(seed)
    lens = [draw.choice([0, 1, 63, 64, 65, draw.randrange(3000)]) for _ in range(9)]
    for window in (0, 1, 100):
        for options in ({}, {"split_tokens": 128, "max_seq_len": 3000}):
            work = allocate(9, num_sms=draw.randrange(1, 9), window=window, **options)
            rows = planned(lens, work)
            check_cover(lens, window, rows)
            assert int(work.row_items[9]) <= len(work.items)


def test_balanced_items_fill_the_card_and_are_about_as_long() -> None:
    work = allocate(8, num_kv_heads=2, num_sms=4)
    lens = [64 * n for n in (1, 5, 40, 200)]
    rows = planned(lens, work)
    tiles = [(end - begin) // TILE_TOKENS for items in rows for _, begin, end, _ in items]
    wanted = CTAS_PER_SM * 4 // 2
    assert wanted / 2 <= len(tiles) <= wanted + 4
    assert max(tiles) == -(-sum(tiles) // wanted), "no item is longer than an equal share"
    assert [len(items) for items in rows[:2]] == [1, 1]


def test_short_rows_are_not_cut_further_than_it_pays() -> None:
    rows = planned([MIN_TILES * TILE_TOKENS, 2 * MIN_TILES * TILE_TOKENS], allocate(2, num_sms=99))
    assert [len(items) for items in rows] == [1, 2]


def test_fixed_items_end_at_the_same_positions_whatever_else_runs() -> None:
    work = allocate(3, split_tokens=128, max_seq_len=512)
    alone = planned([300], work)[0]
    assert [item[1:3] for item in alone] == [(0, 128), (128, 256), (256, 300)]
    together = planned([500, 300, 1], work)[1]
    assert [item[1:] for item in together] == [item[1:] for item in alone]


def test_fixed_items_of_a_window_end_at_multiples_too() -> None:
    work = allocate(1, split_tokens=128, max_seq_len=512, window=200)
    assert [item[1:3] for item in planned([300], work)[0]] == [(100, 128), (128, 256), (256, 300)]


def test_lists_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="max_rows=0; give 1 .. 4096"):
        allocate(0)
    with pytest.raises(ValueError, match="split_tokens=100; give a multiple of 64, or 0"):
        allocate(1, split_tokens=100, max_seq_len=512)
    with pytest.raises(ValueError, match="split_tokens=64 with max_seq_len=0; give the longest"):
        allocate(1, split_tokens=64)
    with pytest.raises(ValueError, match="seq_lens has 3 rows; this work list takes 1 .. 2"):
        plan_decode(lens_on_device([1, 2, 3]), allocate(2))
    with pytest.raises(ValueError, match=r"seq_lens is torch.int64, expected torch.int32"):
        plan_decode(torch.ones(2, dtype=torch.int64, device=DEVICE), allocate(2))
