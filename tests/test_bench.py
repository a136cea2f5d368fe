"""The burst benchmark: the same load for both modes, honest gaps, one JSON line at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdrt.bench import burst
from pdrt.bench.report import percentiles


def test_the_load_is_the_same_for_the_same_seed() -> None:
    args = burst.parse(["--prompts", "5", "--prompt-tokens", "40"])
    load = burst.make_load(args, vocab_size=1000)
    assert load == burst.make_load(args, vocab_size=1000)
    assert load != burst.make_load(burst.parse(["--prompts", "5", "--seed", "1"]), 1000)
    assert [len(prompt) for prompt in load.prompts] == [40] * 5
    assert load.arrivals[0] == 0.0
    assert load.arrivals == sorted(load.arrivals)


def test_no_two_prompts_share_a_prefix() -> None:
    load = burst.make_load(burst.parse(["--prompts", "30"]), vocab_size=50_000)
    starts = [tuple(prompt[:16]) for prompt in (*load.prompts, *load.streams, load.warm_up)]
    assert len(set(starts)) == len(starts)


def test_arrivals_come_at_the_rate() -> None:
    load = burst.make_load(burst.parse(["--prompts", "2000", "--rate", "4"]), vocab_size=100)
    assert load.arrivals[-1] == pytest.approx(2000 / 4, rel=0.1)


def test_tokens_that_arrive_together_have_gaps_of_zero() -> None:
    runs = [[(1.0, 1), (1.5, 2), (3.0, 5)], [(10.0, 1), (10.25, 2)]]
    assert burst.gaps_within(runs, 0.0, 20.0) == [0.5, 1.5, 0.0, 0.0, 0.25]
    assert burst.gaps_within(runs, 1.2, 9.0) == [1.5, 0.0, 0.0]


def test_percentiles_are_in_milliseconds() -> None:
    found = percentiles([0.001 * i for i in range(1, 101)])
    assert found["p50"] == pytest.approx(50.5)
    assert found["p99"] == pytest.approx(99.01)
    assert (found["max"], found["count"]) == (100.0, 100)


@pytest.mark.slow
def test_a_run_gives_figures_of_both_modes(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "burst.json"
    flags = ["--prompts", "3", "--rate", "5", "--model", str(tiny_llama), "--output", str(output)]
    assert burst.main(flags) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    result = json.loads(last)
    assert result == json.loads(output.read_text())
    assert result["same_greedy_tokens"] is True
    assert result["command"].startswith("python -m pdrt.bench burst --prompts 3")
    for mode in burst.MODES:
        assert result["modes"][mode]["itl_ms"]["count"] > 0
        assert result["modes"][mode]["ttft_ms"]["count"] == 3
    assert result["p99_itl_separated_to_unified"] > 0
