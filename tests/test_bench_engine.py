"""The benches without HTTP: they time real engines and workers, and their parts add up."""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pdrt.bench import demo, frontend, handoff, latency, offline, profile, scheduler, start
from pdrt.bench.engine_flags import engine_settings
from pdrt.bench.load.prompts import Vocabulary
from pdrt.bench.load.records import Record
from pdrt.bench.processes import own_bytes
from pdrt.bench.spans import Spans
from pdrt.engine import Engine
from pdrt.errors import ConfigError


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Iterator[Engine]:
    with Engine(str(tiny_llama), max_model_len=512, log_level="error") as engine:
        yield engine


def prompts(engine: Engine, count: int) -> list[list[int]]:
    vocabulary, rng = Vocabulary(engine.plan.folder), np.random.default_rng(0)
    return [vocabulary.random_ids(20, rng) for _ in range(count)]


def test_offline_counts_the_tokens_that_were_asked_for(engine: Engine) -> None:
    args = offline.parse(["--num-prompts", "4", "--output-len", "6", "--input-len", "9"])
    load = offline.wishes(engine, args)
    assert [len(each.prompt) for each in load] == [9] * (4 + offline.WARM_UP)
    seconds, tokens = offline.generate(engine, load, "test")
    assert tokens == 6 * len(load)
    assert seconds > 0


def test_the_steps_of_one_request_are_all_but_its_first_token(engine: Engine) -> None:
    args = latency.parse(["--output-len", "12", "--input-len", "20", "--repeats", "2"])
    row = latency.one_batch(engine, args, 1)
    assert row["step_ms"]["count"] == 2 * 11  # type: ignore[index]
    assert row["prefill_ms"]["count"] == 2  # type: ignore[index]


def test_a_batch_that_never_decodes_together_has_no_step(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one_after_another(*_: object) -> list[list[float]]:
        return [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]

    monkeypatch.setattr(latency, "token_times", one_after_another)
    args = latency.parse(["--output-len", "3", "--input-len", "20", "--repeats", "1"])
    assert latency.one_batch(engine, args, 2)["step_ms"] is None


def test_the_share_of_the_weight_read_limit_is_that_of_the_median_step() -> None:
    timed: dict[str, object] = {"step_ms": {"p50": 4.0}}
    limited = latency.with_limit(timed, 10**6, [0.95, 1.05])
    share = {"weight_read_ms": 1.0, "share_of_weight_read": 0.25}
    assert limited == timed | {"read_gb_s": [0.95, 1.05]} | share
    for untimed in ({"step_ms": None}, {"step_ms": {"p50": 0.0}}):
        assert latency.with_limit(untimed, 10**6, [1.0, 1.0]).keys() == {"step_ms", "read_gb_s"}


def test_a_yardstick_that_differs_before_and_after_gives_no_share() -> None:
    timed: dict[str, object] = {"step_ms": {"p50": 4.0}}
    for reads in ([1.0, 1.3], [1.3, 1.0]):
        assert latency.with_limit(timed, 10**6, reads) == timed | {"read_gb_s": reads}


def test_prefill_s_speed_is_that_of_the_median_repeat(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = iter([9.0, 0.1, 0.2, 0.5])  # the first is warm-up

    async def at(*_: object) -> list[list[float]]:
        first = next(firsts)
        return [[first, first + 1.0]]

    monkeypatch.setattr(latency, "token_times", at)
    args = latency.parse(["--output-len", "2", "--input-len", "20", "--repeats", "3"])
    assert latency.one_batch(engine, args, 1)["prefill_tok_s"] == pytest.approx(20 / 0.2)


def test_steps_outside_the_time_in_which_all_decode_do_not_count() -> None:
    times = [[1.0, 2.0, 3.0, 5.0, 9.0], [2.0, 3.5, 5.0]]
    assert latency.steps_within(times) == [1.0, 2.0]


def test_a_handoff_is_seen_alone_and_beside_streams(engine: Engine) -> None:
    for readers in (0, 2):
        given = prompts(engine, 5)
        seen = asyncio.run(handoff.measure(engine, given, prompts(engine, readers)))
        assert len(seen.sealed_to_taken) == 5 - handoff.WARM_UP
        assert len(seen.first_to_second) + seen.read_together == 5 - handoff.WARM_UP
        assert all(0 < part < 5 for part in seen.sealed_to_taken)
        row = seen.figures(readers)
        assert row["sealed_to_taken_ms"]["count"] == 3
        assert "sealed to taken" in handoff.as_table([row])


def test_two_tokens_of_one_read_are_counted_and_have_no_time_between_them() -> None:
    seen = handoff.Seen()
    for first_to_second in (0.0, 0.02):
        seen.add(0.001, first_to_second)
    row = seen.figures(4)
    assert (row["first_to_second_ms"]["p50"], row["first_to_second_ms"]["count"]) == (20.0, 1)
    assert (row["sealed_to_taken_ms"]["count"], row["read_together"]) == (2, 1)
    alone = handoff.Seen()
    alone.add(0.001, 0.0)
    assert "first to second" not in handoff.as_table([alone.figures(0)])


def test_threads_are_one_again_after_a_profile_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr("pdrt._C.set_num_threads", counts.append)
    with pytest.raises(ZeroDivisionError), profile.bound_threads(10_000):
        raise ZeroDivisionError
    assert counts == [10_000, 1]


def test_settings_are_any_of_the_engine_s_and_wrong_ones_are_named() -> None:
    def settings(*pairs: str) -> object:
        args = argparse.Namespace(model="m", mode="unified", set=list(pairs))
        return engine_settings(args)

    found = settings("max_num_seqs=8", "max-num-batched-tokens=64", "watchdog_timeout=2.5")
    assert (found.max_num_seqs, found.max_num_batched_tokens) == (8, 64)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"--set: .*max_num_seqs"):
        settings("max_num_seqs=many")
    with pytest.raises(ConfigError, match="--set: model has a flag of its own; give --model"):
        settings("model=other")
    with pytest.raises(ConfigError, match="--set: disaggregation_mode .* give --mode"):
        settings("disaggregation-mode=separated")


def test_turns_without_a_model_grow_every_request_by_one_token() -> None:
    """measure() itself asserts it; a turn of eight costs more than one of one."""
    rows = [scheduler.measure(batch, turns=40) for batch in (1, 8)]
    assert rows[0]["turn_us"]["p50"] < rows[1]["turn_us"]["p50"]
    assert scheduler.as_table(rows).splitlines()[2].startswith("8")


@pytest.mark.parametrize(
    ("flags", "of_decode"), [([], "kernel: replay"), (["--each-kernel"], "kernel: paged_attention")]
)
def test_a_profile_s_parts_add_up_to_the_step(
    flags: list[str], of_decode: str, tiny_llama: Path
) -> None:
    flags += ["--model", str(tiny_llama), "--prefill-tokens", "24", "--batch-sizes", "2"]
    rows = profile.run(profile.parse([*flags, "--steps", "5", "--context", "8", "-s", "threads=1"]))
    assert [row["step"] for row in rows] == ["prefill of 24 tokens", "decode of 2"]
    for row, kernel in zip(rows, ("kernel: paged_attention", of_decode), strict=True):
        parts = row["parts"]
        assert isinstance(parts, dict)
        assert sum(part["share"] for part in parts.values()) == pytest.approx(1.0)
        assert sum(part["us"] for part in parts.values()) == pytest.approx(row["us"])
        assert parts[kernel]["calls"] >= 1
        assert 0 < row["outside_kernels"] < 1  # type: ignore[operator]
        assert kernel in profile.as_table(row)


def test_a_span_s_time_is_its_own() -> None:
    spans = Spans()
    inner = spans.around("inner", lambda: time.sleep(0.02))
    outer = spans.around("outer", lambda: (inner(), inner(), time.sleep(0.01)))
    outer()
    assert spans.calls == {"inner": 2, "outer": 1}
    assert 0.04 <= spans.seconds["inner"] < 0.08
    assert 0.01 <= spans.seconds["outer"] < 0.03


def test_a_span_that_raises_is_closed() -> None:
    spans = Spans()
    failing = spans.around("failing", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing()
    spans.around("after", lambda: None)()
    assert spans.calls == {"failing": 1, "after": 1}
    assert len(spans._inner) == 1


# -- demo ---


def test_what_a_token_costs_outside_of_the_workers_is_told_of_each_process(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(tiny_llama), "--flags=--log-level error --max-model-len 512"]
    flags += ["--streams", "8", "--input-len", "40", "--output-len", "200", "--rounds", "1"]
    assert frontend.main(flags) == 0
    *table, line = capsys.readouterr().out.splitlines()
    assert [row.split("  ")[0] for row in table[1:5]] == [
        "front end",
        "keeper",
        "prefill-0",
        "decode-0",
    ]
    for load in ("new", "cached"):
        found = json.loads(line)[load]
        costs = found["us_per_token"]
        assert 10 < costs["front end"] < 10_000
        (together,) = found["front_end_and_keeper_us"]
        assert together == pytest.approx(costs["front end"] + costs["keeper"])
        assert found["share_of_a_core_at_300"] == pytest.approx(together * 300 / 1e6)


def test_a_start_tells_its_seconds_and_what_each_process_holds(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(tiny_llama), "--flags=--log-level error --max-model-len 512"]
    began = time.monotonic()
    assert start.main([*flags, "--starts", "1"]) == 0
    took = time.monotonic() - began
    *table, line = capsys.readouterr().out.splitlines()
    assert "seconds to the first answer" in table[1]
    found = json.loads(line)
    assert 0 < found["seconds"][0] < took
    (sizes,) = found["own_bytes"]
    assert list(sizes) == ["front end", "keeper", "prefill-0", "decode-0"]
    assert found["own_megabytes"] == [sum(sizes.values()) / 1e6]
    assert sizes["keeper"] < sizes["decode-0"]  # which has torch


def test_own_bytes_are_those_that_a_process_writes_and_not_what_it_shares() -> None:
    me, size = Path("/proc/self"), 64 << 20
    before = own_bytes(me)
    with mmap.mmap(-1, size) as shared:
        shared.write(bytes([1]) * size)
        assert own_bytes(me) - before < size // 4
    kept = bytearray(b"1") * size
    assert own_bytes(me) - before > size // 2
    del kept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_bench_that_is_told_to_end_takes_its_server_with_it(
    tiny_llama: Path, number: signal.Signals
) -> None:
    flags = ["--model", str(tiny_llama), "--flags=--max-model-len 512"]
    command = [sys.executable, "-m", "pdrt.bench", "frontend", *flags]
    bench = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    own = psutil.Process(bench.pid)
    try:
        deadline = time.monotonic() + 60
        while len(below := own.children(recursive=True)) < 4:  # front end, keeper, two workers
            assert time.monotonic() < deadline and bench.poll() is None
            time.sleep(0.05)
    finally:
        bench.send_signal(number)
    assert bench.wait(60) == 128 + number
    assert psutil.wait_procs(below, timeout=10)[1] == []


def record(scheduled: float, *times: float) -> Record:
    return Record(scheduled, len(times), chunk_times=list(times), chunk_tokens=[1] * len(times))


def test_gaps_of_the_demo_are_those_that_reach_into_the_burst() -> None:
    stream = record(0.0, 1.0, 2.5, 4.0, 6.0, 7.0)
    seen = demo.Seen([stream], [record(3.0, 3.5), record(4.5, 5.0)])
    assert seen.window == (3.0, 5.0)
    assert seen.gaps() == [1.5, 2.0]
    assert seen.figures()["burst_ttft_ms"]["max"] == 500.0


def test_the_demo_s_load_is_a_function_of_its_seed(tiny_llama: Path) -> None:
    vocabulary = Vocabulary(tiny_llama)
    made = [demo.make_demo(demo.parse(["--seed", seed]), vocabulary) for seed in "001"]
    assert made[0] == made[1] != made[2]
    burst = made[0].sessions[made[0].num_streams :]
    assert all(session.at >= 3.0 for session in burst if session.at is not None)


@pytest.mark.slow
def test_the_demo_shows_both_modes(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(tiny_llama), "--prompt-tokens", "60", "--stream-tokens", "900"]
    flags += ["--burst-after", "0.1"]
    assert demo.main([*flags, "--rate", "5", "--output", str(tmp_path / "demo")]) == 0
    result = json.loads((tmp_path / "demo.json").read_text())
    assert set(result["modes"]) == set(demo.MODES)
    assert result["outputs"].startswith("9 of 9")
    assert "gap between tokens, p99" in capsys.readouterr().out
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
