"""Targets, summary and plots: a figure is held against its target, and none is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pdrt.bench.suite.chart import Chart, Series, axis
from pdrt.bench.suite.parts import Outcome
from pdrt.bench.suite.roofline import plots
from pdrt.bench.suite.summary import Run, write_summary
from pdrt.bench.suite.targets import Bound, Target, Verdict, read_targets, verdicts

TARGETS = Path(__file__).parents[1] / "benchmarks/gpu/targets.json"
COPY = Target("copy", "page copy", Bound("share_of_copy", 0.9), Bound("share_of_copy", 0.95))
GAP = Target("gap", "gap", Bound("us.p50", 500.0, at_most=True), Bound("us.p50", 200.0, True))


def result(*rows: dict[str, Any], gpu: object = "some card") -> dict[str, Any]:
    limits = {"copy_gb_s": 4000.0, "matmul_tflops": 800.0}
    return {"gpu": gpu and {"name": gpu}, "yardsticks": limits, "rows": list(rows)}


def row(measure: str, share: float, **more: object) -> dict[str, Any]:
    times = {"p20": 90.0, "p50": 100.0, "p80": 120.0, "count": 50}
    figures = {"us": times, "bytes": 10**8, "gb_s": 4000 * share, "share_of_copy": share}
    return {"op": "copy", "measure": measure, **figures, "flops_a_byte": 0.0, **more}


def judged(target: Target, *rows: dict[str, Any]) -> Verdict:
    (verdict,) = verdicts([target], [result(*rows)])
    return verdict


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        (0.96, "passed, goal met"),
        (0.92, "passed; 3% from the goal"),
        (0.9, "passed; 5% from the goal"),
        (0.8999, "missed by under 1%"),
        (0.45, "missed by 50%"),
    ],
)
def test_a_verdict_says_met_or_by_how_much_missed(share: float, verdict: str) -> None:
    found = judged(COPY, row("copy", share))
    assert (found.value, found.verdict) == (share, verdict)


@pytest.mark.parametrize(
    ("micros", "verdict"),
    [(150.0, "passed, goal met"), (300.0, "passed; 50% from the goal"), (750.0, "missed by 50%")],
)
def test_less_is_better_where_the_target_is_a_most(micros: float, verdict: str) -> None:
    assert judged(GAP, {"measure": "gap", "us": {"p50": micros}}).verdict == verdict


def test_the_worst_of_several_rows_counts() -> None:
    assert judged(COPY, row("copy", 0.97), row("copy", 0.5), row("copy", 0.92)).value == 0.5


def test_a_row_without_its_figure_is_not_taken_for_a_pass() -> None:
    failed = {"op": "copy", "measure": "copy", "error": "WrongResult: the relative error is 0.3"}
    assert judged(COPY, row("copy", 0.97), failed).verdict.startswith("failed: WrongResult")
    assert judged(COPY, {"measure": "copy", "us": {}}).verdict == "no share_of_copy"
    assert judged(COPY).verdict == "not measured"


def test_figures_of_no_gpu_are_not_held_against_a_target() -> None:
    (found,) = verdicts([COPY], [result(row("copy", 0.99), gpu=None)])
    assert (found.value, found.verdict) == (None, "not measured")


def test_a_goal_may_be_another_figure_than_the_pass() -> None:
    target = Target("copy", "d", Bound("share_of_copy", 0.75), Bound("gb_s", 3730.0))
    found = judged(target, row("copy", 0.8))
    assert found.goal == "gb_s >= 3730"
    assert found.verdict == "passed; 14% from the goal"


def test_the_file_of_targets_has_goals_no_easier_than_passes() -> None:
    targets = read_targets(TARGETS)
    assert len(targets) == 25
    for target in targets:
        if target.goal is not None and target.goal.field == target.passing.field:
            assert target.passing.shortfall(target.goal.value) <= 0, target.what


def outcomes() -> list[Outcome]:
    prefill = row("prefill", 0.2) | {"op": "prefill", "tflops": 350.0, "share_of_matmul": 0.44}
    prefill |= {"flops_a_byte": 900.0, "tokens": 2048}
    peers = {"memcpy": {"us": 900.0, "times_ours": 9.0}, "flex": {"refused": "no | such\nthing"}}
    point = {"setup": "unified", "prompt_tok_s": 40_000, "gap_ms": {"p99": 30.5}}
    return [
        Outcome("bench_copy", "passed", result=result(row("copy", 0.92, peers=peers))),
        Outcome("bench_prefill", "timed out", "it still ran after 60 s", result=result(prefill)),
        Outcome("serving", "passed", result={"frontier": [point]}),
        Outcome("doctor", "skipped", "no doctor here"),
        Outcome("probe", "passed", result={"rows": "not ours", "gpu": "a word"}),
    ]


def test_the_page_tells_parts_targets_and_rows(tmp_path: Path) -> None:
    write_summary(tmp_path, Run("full", "abc123", "completed"), outcomes(), [COPY, GAP])
    page = (tmp_path / "summary.md").read_text()
    assert "| bench_prefill | timed out | 0 | it still ran after 60 s |" in page
    assert "| doctor | skipped | 0 | no doctor here |" in page
    assert "| page copy | 0.92 | >= 0.9 | >= 0.95 | passed; 3% from the goal |" in page
    assert "| gap |  | <= 500 | <= 200 | not measured |" in page
    assert "Commit abc123." in page
    assert "name some card" in page
    assert "memcpy 900.0 us (9.0x ours); flex refused (no \\| such thing)" in page
    assert "| prefill | tokens=2048 | 100.0 | 90.0..120.0 | 800.0 | 20.0% | 350.0 | 44.0% |" in page
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert [part["name"] for part in kept["parts"]] == [each.name for each in outcomes()]
    assert kept["targets"][0]["verdict"] == "passed; 3% from the goal"


def test_plots_are_whole_svg_files_with_every_point(tmp_path: Path) -> None:
    drawn = plots([outcome.result for outcome in outcomes() if outcome.name != "probe"])
    assert sorted(drawn) == ["bandwidth.svg", "frontier.svg", "roofline.svg"]
    counts = {}
    for name, svg in drawn.items():
        root = ElementTree.fromstring(svg)
        counts[name] = len(root.findall(".//{*}circle/{*}title"))
    assert counts == {"bandwidth.svg": 2, "frontier.svg": 1, "roofline.svg": 1}


def test_nothing_to_plot_gives_no_plot() -> None:
    assert plots([{}, result()]) == {}


def test_points_lie_where_their_values_say() -> None:
    linear, log = axis("x", [0.0, 50.0, 100.0], False), axis("x", [1.0, 1000.0], True)
    assert linear.share(0.0) == 0.0
    assert linear.share(54.0) == pytest.approx(0.5)
    assert log.share(1000.0) - log.share(100.0) == pytest.approx(log.share(10.0) - log.share(1.0))
    assert log.ticks() == [1.0, 10.0, 100.0, 1000.0]
    assert linear.ticks() == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]


def test_a_chart_of_one_point_or_with_odd_names_is_still_one() -> None:
    chart = Chart("<&>", "x", "y", series=[Series('"a" <b>', [(0.0, 0.0)], ["<i>"])])
    assert ElementTree.fromstring(chart.svg()).tag.endswith("svg")
