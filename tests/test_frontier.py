"""The serving bench: the same load for each setup, figures of every one that runs, and no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdrt.bench import decode_step, frontier, setups
from pdrt.errors import ConfigError

CPU = ["--load-format", "auto", "--device", "cpu", "--streams", "2", "--max-num-seqs", "8"]


def test_setups_differ_in_what_they_are_named_for() -> None:
    args = frontier.parse(["--device", "cpu"])
    chosen = {
        setup.name: setups.engine_settings(setup, args)
        for setup in setups.SETUPS
        if setup.mps != "on"
    }
    assert chosen["unified, 512-token steps"].max_num_batched_tokens == 512
    assert chosen["unified, 2048-token steps"].disaggregation_mode == "unified"
    assert chosen["separated, no MPS"].disaggregation_mode == "separated"
    assert {each.model for each in chosen.values()} == {"microsoft/phi-2"}
    assert {each.load_format for each in chosen.values()} == {"dummy"}


def test_mps_without_a_gpu_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="--device is cpu; MPS shares a GPU"):
        setups.engine_settings(setups.WITH_MPS, frontier.parse(["--device", "cpu"]))


def point(setup: setups.Setup, share: float, p99: float) -> frontier.Json:
    return {"setup": setup.name, "share_of_capacity": share, "gap_ms": {"p99": p99}}


def test_the_ratio_is_of_the_same_load() -> None:
    points = [
        point(setups.UNIFIED, 0.5, 40.0),
        point(setups.UNIFIED, 0.25, 30.0),
        point(setups.WITH_MPS, 0.25, 3.0),
        point(setups.WITH_MPS, 0.5, 10.0),
    ]
    (row,) = frontier.ratio_row(points, 0.5)
    assert row["ratio"] == 0.25
    assert list(frontier.ratio_row(points[:3], 0.5)) == []


def test_quick_runs_one_setup_of_each_mode_the_first_that_works() -> None:
    args = frontier.parse(["--quick"])
    found = frontier.Findings()
    tried = []
    for setup in frontier.chosen(args, found):
        tried.append(setup.name)
        if setup != setups.WITH_MPS:  # it is refused
            found.points.append(point(setup, 0.5, 1.0))
    assert tried == ["unified, 2048-token steps", "separated, MPS", "separated, no MPS"]


def test_a_pace_is_of_the_time_in_which_all_streams_decode() -> None:
    run = [(0.0, 1), (1.0, 2), (2.0, 4), (3.0, 5), (9.0, 6)]
    assert decode_step._pace(run, 1.0, 3.0) == pytest.approx(2.0 / 3)
    assert decode_step._pace(run, 4.0, 8.0) is None


@pytest.mark.slow
def test_a_run_tells_gaps_step_and_handoff_and_what_was_skipped(
    tiny_llama: Path, tmp_path: Path
) -> None:
    output = tmp_path / "frontier.json"
    flags = ["--quick", "--window", "1", "--capacity-prompts", "3", "--output", str(output)]
    assert frontier.main(["--model", str(tiny_llama), *CPU, *flags]) == 0
    result = json.loads(output.read_text())
    assert result["gpu"] is None
    assert list(result["skipped"]) == ["separated, MPS"]
    names = [each["setup"] for each in result["frontier"]]
    assert names == ["unified, 2048-token steps", "separated, no MPS"]
    for each in result["frontier"]:
        assert each["prompt_tok_s"] > 0
        assert each["gap_ms"]["p99"] > 0
        assert each["same_greedy_tokens"] == 1.0
    assert "handoff_ms" not in result["frontier"][0]
    assert {row["op"] for row in result["rows"]} == {"decode_step", "handoff"}
