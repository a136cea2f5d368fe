"""The harness of the kernel benches, on the CPU: it checks first, and no failure is hidden."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pdrt.bench import gpu_bench, gpu_timing, kernels
from pdrt.bench.gpu_bench import Case, Options, WrongResult, close, rates, run_bench
from pdrt.bench.gpu_timing import Times, Yardsticks

LIMITS = Yardsticks(copy_gb_s=4000.0, matmul_tflops=800.0)


@pytest.fixture(autouse=True)
def known_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are judged against known yardsticks; their own measurement has a test of its own."""
    monkeypatch.setattr(gpu_bench, "measure_yardsticks", lambda watch: LIMITS)


def result_of(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def doubling() -> Case:
    source = torch.randn(1 << 12)
    expected = source * 2
    return Case(
        "double",
        {"rows": 1 << 12},
        lambda: source.add(source),
        check=lambda: close(source.add(source), expected, 1e-6),
        bytes_moved=2 * source.nbytes,
        measure="double_4k",
        peers={"multiply": lambda: source * 2, "absent": lambda: source.no_such_method()},
    )


def test_a_bench_says_what_was_measured_where_and_how_near_the_limit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept = tmp_path / "deep" / "double.json"
    argv = ["--device", "cpu", "--tiny", "--output", str(kept)]
    assert run_bench("double", lambda options: iter([doubling()]), argv, None) == 0
    result = result_of(capsys)
    assert result == json.loads(kept.read_text())
    assert result["gpu"] is None
    assert result["yardsticks"] == {"copy_gb_s": 4000.0, "matmul_tflops": 800.0}
    assert result["command"] == "python benchmarks/kernels/bench_double.py " + " ".join(argv)
    assert {"commit", "machine", "versions"} <= result.keys()
    (row,) = result["rows"]
    assert (row["op"], row["rows"], row["measure"]) == ("double", 4096, "double_4k")
    assert row["us"]["p20"] <= row["us"]["p50"] <= row["us"]["p80"]
    assert row["gb_s"] == pytest.approx(32768 / row["us"]["p50"] / 1e3, abs=0.06)
    assert row["peers"]["multiply"]["times_ours"] > 0
    assert row["peers"]["absent"]["refused"].startswith("AttributeError")


def test_a_wrong_result_is_never_timed_and_fails_the_bench_but_not_the_other_cases(
    capsys: pytest.CaptureFixture[str],
) -> None:
    timed = []

    def cases(options: Options) -> Iterator[Case]:
        wrong = torch.ones(4), torch.full((4,), 1.1)
        yield Case("wrong", {}, lambda: timed.append(1), lambda: close(*wrong, 1e-3), 1)
        yield doubling()

    assert run_bench("some", cases, ["--device", "cpu"], None) == 1
    result = result_of(capsys)
    assert timed == []
    assert result["cases_failed"] == 1
    assert "relative error is 0.0909" in result["rows"][0]["error"]
    assert "us" not in result["rows"][0]
    assert result["rows"][1]["us"]["count"] == gpu_bench.REPEATS


def test_a_bench_that_is_terminated_tells_what_it_had_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def cases(options: Options) -> Iterator[Case]:
        yield doubling()
        yield Case("ended", {}, print, lambda: os.kill(os.getpid(), signal.SIGTERM), 1)
        yield doubling()

    assert run_bench("some", cases, ["--device", "cpu", "--quick"], None) == 1
    result = result_of(capsys)
    assert result["stopped_early"] is True
    assert [row["op"] for row in result["rows"]] == ["double"]


def test_a_bench_that_is_terminated_beside_a_peer_keeps_its_own_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = torch.randn(64)
    peers = {"fast": lambda: source * 2, "slow": lambda: os.kill(os.getpid(), signal.SIGTERM)}
    case = Case("double", {}, lambda: source + source, lambda: None, 512, peers=peers)
    assert run_bench("some", lambda options: iter([case]), ["--device", "cpu"], None) == 1
    (row,) = result_of(capsys)["rows"]  # type: ignore[misc]
    assert row["us"]["p50"] > 0
    assert list(row["peers"]) == ["fast"]


def test_a_bench_without_a_case_has_failed() -> None:
    argv = ["--device", "cpu", "--only", "nothing-of-this-name"]
    assert run_bench("some", lambda options: iter([doubling()]), argv, None) == 1


def test_nan_and_another_shape_are_never_close() -> None:
    with pytest.raises(WrongResult, match="error is nan"):
        close(torch.tensor([1.0, float("nan")]), torch.ones(2), 1e9)
    with pytest.raises(WrongResult, match=r"shape \(2,\), not \(1, 2\)"):
        close(torch.ones(2), torch.ones(1, 2), 1.0)


def test_rates_count_bytes_and_operations_by_the_median() -> None:
    row = rates(Times(90.0, 100.0, 120.0, 50), 200_000_000, 4e10, LIMITS)
    assert row["gb_s"] == 2000.0
    assert row["share_of_copy"] == 0.5
    assert row["tflops"] == 400.0
    assert row["share_of_matmul"] == 0.5
    assert row["flops_a_byte"] == 200.0
    assert "tflops" not in rates(Times(1, 1, 1, 1), 100, 0.0, LIMITS)


def test_several_calls_are_timed_as_the_mean_of_one() -> None:
    watch = gpu_timing.HostStopwatch(torch.device("cpu"))
    calls = [lambda: sum(range(20_000))] * 4
    times = watch.graph(calls, repeats=5)
    one = watch.events(calls[0], repeats=5)
    assert times.count == 5
    assert times.p50 < 3 * one.p50


def test_a_graph_whose_data_the_cache_holds_is_not_called_cold() -> None:
    watch = gpu_timing.HostStopwatch(torch.device("cpu"))

    def case(num_calls: int, size: int) -> Case:
        return Case("x", {}, [print] * num_calls, print, bytes_moved=size)

    assert gpu_bench.timing(case(4, 64 << 20), watch) == "graph of 4, cold"
    assert gpu_bench.timing(case(2, 64 << 20), watch) == "graph of 2, cache warm"
    assert gpu_bench.timing(doubling(), watch) == "events, cold"


def test_rotated_inputs_exceed_the_cache() -> None:
    cache = 60 << 20
    for size in (1 << 20, 21 << 20, 400 << 20):
        number = gpu_timing.rotations_past(cache, size, 64)
        assert number * size >= 5 * cache or number == 64
    assert gpu_timing.rotations_past(cache, 400 << 20, 64) == 1


def test_yardsticks_are_measured_with_random_data() -> None:
    limits = gpu_timing.measure_yardsticks(gpu_timing.HostStopwatch(torch.device("cpu")))
    assert limits.copy_gb_s > 0.01
    assert limits.matmul_tflops > 1e-5
    assert gpu_timing.random_bits(4096, torch.device("cpu")).float().std() > 0.5


DOCS = Path(__file__).parents[1] / "docs/gpu-benchmarks.md"


def test_the_example_in_the_docs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    example: dict[str, Any] = {"__name__": "example"}
    exec(compile(found[1], "example", "exec"), example)
    assert run_bench("scale", example["cases"], ["--device", "cpu", "--tiny"], None) == 0
    (row,) = result_of(capsys)["rows"]
    assert row["peers"]["add"]["times_ours"] > 0


def test_kernels_runs_every_bench_of_the_folder_but_those_of_the_cpu(tmp_path: Path) -> None:
    for name in ("bench_a.py", "bench_b_norm.py", "bench_cpu_a.py", "helper.py"):
        (tmp_path / name).touch()
    found = kernels.parts(kernels.parse(["out", "--quick"]), tmp_path)
    assert [part.name for part in found] == ["bench_a", "bench_b_norm"]
    assert found[0].command[1:] == ("-m", "benchmarks.kernels.bench_a", "--quick")
    only = kernels.parts(kernels.parse(["out", "--only", "norm"]), tmp_path)
    assert [part.name for part in only] == ["bench_b_norm"]


def test_kernels_that_are_not_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert kernels.main([str(out), "--only", "of-no-such-name"]) == 2
    assert "no kernel bench for 'of-no-such-name'" in capsys.readouterr().err
    assert not out.exists()
