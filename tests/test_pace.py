"""When decode waits for its next step, and that a server does so while prompts are computed."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest

import pdrt
from pdrt import _C
from pdrt.config import Settings
from pdrt.errors import ConfigError
from pdrt.worker.pace import USED_SHARE, Pace
from tests.fixtures_clock import Clock

PREFILL = 0
TARGET = 0.1  # seconds


@pytest.fixture
def ledger(make_ledger: Callable[..., _C.Ledger]) -> _C.Ledger:
    return make_ledger()


def prefill_computes(ledger: _C.Ledger, computing: bool = True) -> None:
    ledger.holder(1 << 8 | PREFILL).set_computing(computing)


def test_steps_start_evenly_while_prompts_are_computed(ledger: _C.Ledger, clock: Clock) -> None:
    pace = Pace(ledger, [PREFILL], TARGET, clock)
    prefill_computes(ledger)
    assert pace.pause() == 0.0  # the first after a rest
    pace.start()
    clock.now += 0.03  # the step
    assert pace.pause() == pytest.approx(USED_SHARE * TARGET - 0.03)
    clock.now += pace.pause()
    assert pace.pause() == pytest.approx(0.0, abs=1e-9)


def test_a_step_longer_than_the_target_is_followed_at_once(ledger: _C.Ledger, clock: Clock) -> None:
    pace = Pace(ledger, [PREFILL], TARGET, clock)
    prefill_computes(ledger)
    pace.start()
    clock.now += 2 * TARGET
    assert pace.pause() == 0.0


def test_nobody_waits_when_no_prompt_is_computed(ledger: _C.Ledger, clock: Clock) -> None:
    pace = Pace(ledger, [PREFILL, 2], TARGET, clock)
    pace.start()
    assert pace.pause() == 0.0
    prefill_computes(ledger)
    assert pace.pause() > 0.0
    prefill_computes(ledger, False)
    assert pace.pause() == 0.0


def test_without_a_target_nobody_waits(ledger: _C.Ledger, clock: Clock) -> None:
    pace = Pace(ledger, [PREFILL], None, clock)
    prefill_computes(ledger)
    pace.start()
    assert pace.pause() == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tpot_target_ms": 0.0}, "--tpot-target-ms is 0.0; give more than 0, at most 500"),
        ({"tpot_target_ms": 501.0}, "--tpot-target-ms is 501.0; give more than 0, at most 500"),
        ({"tpot_target_ms": 50.0, "disaggregation_mode": "unified"}, "leave it out in unified"),
        ({"tpot_target_ms": 50.0, "lend_cores": False}, "leave it out with --no-lend-cores"),
    ],
)
def test_a_target_that_cannot_be_kept_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**settings)


def test_readers_wait_as_long_as_the_target_says_while_a_prompt_is_computed() -> None:
    with pdrt.Engine(
        max_model_len=2048, max_num_batched_tokens=64, tpot_target_ms=1000 * TARGET
    ) as engine:
        params = pdrt.SamplingParams(max_tokens=1900, ignore_eos=True)
        times: list[float] = []
        first, stop = threading.Event(), threading.Event()

        def read() -> None:
            for _ in engine.generate("Once upon a time", params, stream=True):
                times.append(time.perf_counter())
                first.set()
                if stop.is_set():
                    return

        reader = threading.Thread(target=read)
        reader.start()
        assert first.wait(60)
        time.sleep(0.3)
        start = time.perf_counter()
        engine.generate([list(range(5, 1505))], pdrt.SamplingParams(max_tokens=1))
        end = time.perf_counter()
        time.sleep(0.3)
        stop.set()
        reader.join()
    gaps = [(a, b - a) for a, b in itertools.pairwise(times)]
    beside = sorted(gap for a, gap in gaps if start + TARGET < a < end - 2 * TARGET)
    alone = sorted(gap for a, gap in gaps if a < start - TARGET or a > end)
    assert beside[len(beside) // 2] > 0.8 * TARGET
    assert alone[len(alone) // 2] < 0.8 * TARGET
