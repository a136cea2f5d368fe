"""Comparing runs: a difference is told from noise, and the intervals are as wide as they should."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from pdrt.bench import compare
from pdrt.bench.load.driver import Run
from pdrt.bench.load.records import Record
from pdrt.bench.results import as_result
from pdrt.bench.statistics import between_runs, blocks, estimate, resample, student_t
from pdrt.bench.statistics import compare as compare_samples


def result(seed: int, slower: float = 1.0, count: int = 120) -> dict[str, object]:
    """A run whose times are drawn; `slower` multiplies the gaps between tokens."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        gaps = rng.gamma(20, 0.02 / 20, 8) * slower
        times = number * 0.1 + rng.gamma(10, 0.02) + np.cumsum(gaps)
        record = Record(scheduled=number * 0.1, wanted_tokens=8, number=number, session=number)
        record.sent, record.ended, record.usage_tokens = record.scheduled, float(times[-1]), 8
        record.chunk_times, record.chunk_tokens = [float(at) for at in times], [1] * 8
        records.append(record)
    return as_result(Run(records, count * 0.1, 0.01), None, "")


def write(folder: Path, name: str, made: dict[str, object]) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(made))
    return str(path)


def verdicts(first: str, second: str, *names: str) -> dict[str, str]:
    """Of the measures named; of all, if none is."""
    sides = compare.Side.read(first), compare.Side.read(second)
    chosen = [each for each in compare.MEASURES if not names or each.name in names]
    return {row.measure.name: row.verdict for row in compare.rows(*sides, 0.99, chosen)}


def test_a_run_against_another_of_the_same_is_noise_in_every_row(tmp_path: Path) -> None:
    found = verdicts(write(tmp_path, "a", result(1)), write(tmp_path, "b", result(2)))
    assert len(found) == len(compare.MEASURES)
    assert set(found.values()) == {"noise"}


def test_a_tenth_more_between_tokens_is_found_where_it_is_and_only_there(tmp_path: Path) -> None:
    files = write(tmp_path, "a", result(1)), write(tmp_path, "b", result(2, slower=1.1))
    found = verdicts(*files, "TPOT mean", "ITL p50", "output tok/s")
    for name in ("TPOT mean", "ITL p50"):
        assert re.fullmatch(r"B (8|9|1[0-2])\.\d% higher: worse", found[name])
    assert found["output tok/s"] == "noise"  # arrivals set it
    back = verdicts(*reversed(files), "TPOT mean")
    assert back["TPOT mean"].endswith("lower: better")


def test_runs_that_differ_among_themselves_make_the_interval_wider(tmp_path: Path) -> None:
    """Each pair alone would be called a difference; the runs together say that it is not one."""
    names = [write(tmp_path, f"r{i}", result(i, slower=1 + 0.1 * (i % 2))) for i in range(4)]
    sides = ",".join(names[:2]), ",".join(names[2:])
    assert verdicts(*names[:2], "TPOT mean")["TPOT mean"] != "noise"
    assert verdicts(*sides, "TPOT mean")["TPOT mean"] == "noise"


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        sample = [[np.array([value]) for value in rng.normal(5.0, 1.0, 60)]]
        drawn = resample(sample, lambda values: float(values.mean()), rng)
        hits += estimate(5.0, drawn, 0.9).has(5.0)
    assert 46 <= hits <= 60  # 54 are expected; 46 or fewer of 60 come once in a hundred times


def test_blocks_keep_neighbours_together() -> None:
    found = blocks(1000, np.random.default_rng(0))
    assert len(found) == 1000
    assert np.mean(np.diff(found) % 1000 == 1) == pytest.approx(0.9, abs=0.02)  # blocks of ten


def average(values: np.ndarray) -> float:
    return float(values.mean())


def test_a_figure_of_zero_on_one_side_is_infinitely_less_and_on_both_no_difference() -> None:
    zeros, ones = [[np.zeros(1)] * 5], [[np.ones(1)] * 5]
    found = compare_samples(zeros, ones, average, 0.9, 0)
    assert (found.ratio.low, found.ratio.value, found.ratio.high) == (np.inf,) * 3
    assert not found.is_noise
    both = compare_samples(zeros, zeros, average, 0.9, 0)
    assert (both.ratio.low, both.ratio.value, both.ratio.high) == (1.0, 1.0, 1.0)
    assert both.is_noise


def test_a_bound_without_end_is_told_and_cut_off_in_the_picture(tmp_path: Path) -> None:
    # One of five is not 0, so that a third of the first side's resamples have none.
    rare = [[np.array([value]) for value in (0.0, 0.0, 0.0, 0.0, 1.0)]]
    found = compare_samples(rare, [[np.ones(1)] * 5], average, 0.9, 0)
    assert (found.ratio.value, found.ratio.high) == (5.0, np.inf)
    side = compare.Side.read(write(tmp_path, "a", result(1, count=5)))
    rows = [compare.Row(compare.MEASURES[0], found)]
    assert "inf]" in compare.table(rows, of_runs=True).as_text()
    assert compare.picture(side, side, rows).startswith(b"\x89PNG")


def test_requests_of_one_token_have_no_gap_and_do_not_end_a_comparison(tmp_path: Path) -> None:
    made = result(1, count=20)
    itls = made["itls"]
    assert isinstance(itls, list)
    bare = write(tmp_path, "bare", made | {"itls": [[] for _ in itls[:19]] + itls[19:]})
    assert set(verdicts(bare, bare, "ITL p50", "ITL p99")) == {"ITL p50", "ITL p99"}


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 63.657), (2, 9.925), (4, 4.604), (10, 3.169), (30, 2.750)]
)
def test_student_s_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_t(0.995, freedom) == pytest.approx(quantile, rel=1e-4)


def test_welch_s_interval_is_the_one_worked_out_by_hand() -> None:
    # Logs 0, 2 and 3, 5, 7: means 1 and 5, variances of the means 1 and 4/3, so 2.882 degrees.
    first, second = np.exp([0.0, 2.0]), np.exp([3.0, 5.0, 7.0])
    low, high = np.log(between_runs(first, second, 0.99) or ())
    assert (low + high) / 2 == pytest.approx(4.0)
    freedom = (7 / 3) ** 2 / (1 / 1 + (4 / 3) ** 2 / 2)
    assert freedom == pytest.approx(2.882, abs=1e-3)
    assert (high - low) / 2 == pytest.approx(student_t(0.995, freedom) * (7 / 3) ** 0.5)
    assert between_runs(first, second[:1], 0.99) is None
    assert between_runs(first, np.zeros(2), 0.99) is None


def test_equal_sides_whose_runs_differ_are_seldom_told_apart() -> None:
    """Runs differ by as much as requests; resampling alone calls a quarter of these different."""
    rng = np.random.default_rng(3)
    told = 0
    for seed in range(25):
        sides = [
            [[np.array([x]) for x in rng.lognormal(rng.normal(0, 0.3), 0.3, 30)] for _ in range(2)]
            for _ in range(2)
        ]
        told += not compare_samples(sides[0], sides[1], average, 0.99, seed).is_noise
    assert told <= 1


def test_runs_that_agree_tell_a_tenth_from_noise(tmp_path: Path) -> None:
    names = [write(tmp_path, f"r{i}", result(i, slower=1 + 0.1 * (i > 2))) for i in range(6)]
    found = verdicts(",".join(names[:3]), ",".join(names[3:]), "TPOT mean")
    assert found["TPOT mean"].endswith("higher: worse")


def test_other_seeds_are_the_same_load_with_other_outputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write(tmp_path, f"s{i}", result(i, count=5) | {"seed": i}) for i in range(4)]
    assert compare.main([f"{files[0]},{files[1]}", f"{files[2]},{files[3]}"]) == 0
    shown = capsys.readouterr().out
    assert "Outputs were not compared: with another seed" in shown
    assert "differ in seed" not in shown
    assert "of these requests alone" not in shown


def test_the_page_needs_no_other_file_and_says_what_to_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = result(2) | {"request_rate": 5, "generated_texts": ["x"] * 120}
    files = [write(tmp_path, "a", result(1)), write(tmp_path, "b", other)]
    assert compare.main([*files, "--output", str(tmp_path / "out" / "page")]) == 0
    shown = capsys.readouterr().out
    assert "The loads differ in request_rate." in shown
    assert "0 of 120 outputs are the same." in shown
    assert "A side has one run" in shown
    assert "verdict, of these requests alone" in shown
    page = (tmp_path / "out" / "page.html").read_text()
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    png = (tmp_path / "out" / "page.png").read_bytes()
    assert base64.b64decode(picture) == png
    assert png.startswith(b"\x89PNG")
    assert "http" not in page
    assert "TPOT mean" in page
    assert "verdict, of these requests alone" in page


def test_what_cannot_be_compared_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path, "good", result(1, count=3))
    bare = write(tmp_path, "bare", {"ttfts": []})
    failed = write(tmp_path, "failed", result(1, count=1) | {"errors": ["HTTP 500"]})
    for bad, named in ((bare, "has no itls"), (failed, "no completed"), ("nowhere", "cannot be")):
        assert compare.main([good, bad]) == 1
        assert named in capsys.readouterr().err
