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
from pdrt.bench.statistics import blocks, estimate, resample
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


def test_a_figure_of_zero_on_one_side_is_no_division_by_zero() -> None:
    zeros, ones = [[np.zeros(1)] * 5], [[np.ones(1)] * 5]
    found = compare_samples(zeros, ones, lambda values: float(values.mean()), 0.9, 0)
    assert not found.is_noise
    assert found.ratio.value > 1


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
    page = (tmp_path / "out" / "page.html").read_text()
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    png = (tmp_path / "out" / "page.png").read_bytes()
    assert base64.b64decode(picture) == png
    assert png.startswith(b"\x89PNG")
    assert "http" not in page
    assert "TPOT mean" in page


def test_what_cannot_be_compared_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path, "good", result(1, count=3))
    bare = write(tmp_path, "bare", {"ttfts": []})
    failed = write(tmp_path, "failed", result(1, count=1) | {"errors": ["HTTP 500"]})
    for bad, named in ((bare, "has no itls"), (failed, "no completed"), ("nowhere", "cannot be")):
        assert compare.main([good, bad]) == 1
        assert named in capsys.readouterr().err
