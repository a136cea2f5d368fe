"""Schedulers, router and ledger under random arrivals, aborts, deaths and exhaustion.

A failing seed is told with the command that replays it; see tests/search.py and tests/replay.py.
PDRT_SEARCH_SECONDS limits the time of the slow search, which then makes fewer runs.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys

import pytest

from tests.search import ROOT, Result, search
from tests.simulated_setup import Setup, draw_setup
from tests.simulation import Simulation

NUM_RUNS = 10_000
NUM_SLOW_RUNS = 1_000_000

# What must have happened, and at least how often in 10,000 runs: about half of what does.
EVENTS = {
    "finished": 20_000,
    "handed_off": 15_000,
    "followers": 4_000,
    "scored prompts": 3_000,
    "preempted": 1_000,
    "evicted": 15_000,
    "prefix hit": 25_000,  # tokens
    "aborted": 800,
    "died at rest": 2_000,
    "died in its step": 900,
    "reaped": 3_000,
    "late report": 400,
    "frame refused": 1_500,
    "report lost": 3_500,
    "given up": 5,
    "admit NO_PAGES": 20_000,
    "admit NOT_OLDEST": 15_000,
    "seal FULL": 4_500,
    "grow PREEMPTED": 700,
    "grow LET_GO": 400,
    "grow NO_PAGES": 500,
    "grow ahead DONE": 20_000,
    "grow ahead NO_PAGES": 700,
    "row STALE": 800,
    "let_go DONE": 250,
    "admit BUSY": 3_000,
    "boundary BUSY": 3_000,
    "seal BUSY": 1_000,
    "take BUSY": 700,
    "grow BUSY": 2_500,
    "finish BUSY": 800,
    "abort BUSY": 20,
}


def assert_thorough(result: Result) -> None:
    """No failure, and enough of everything that may go wrong went wrong."""
    assert not result.failures, "\n".join(["", *result.failures])
    rare = {
        name: result.tally[name]
        for name, least in EVENTS.items()
        if result.tally[name] * NUM_RUNS < least * result.runs
    }
    assert not rare, f"too seldom in {result.runs} runs: {rare}"


def test_ten_thousand_runs_keep_every_promise() -> None:
    result = search(NUM_RUNS)
    assert_thorough(result)
    assert result.runs == NUM_RUNS


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_million_runs_keep_every_promise(capfd: pytest.CaptureFixture[str]) -> None:
    seconds = float(os.environ.get("PDRT_SEARCH_SECONDS", math.inf))
    with capfd.disabled():  # it takes long, so its progress is shown
        result = search(
            NUM_SLOW_RUNS, first=NUM_RUNS, seconds=seconds, processes=os.cpu_count() or 1
        )
        print(f"{result.runs} runs in {result.seconds:.0f} s")
    assert_thorough(result)
    assert result.runs == NUM_SLOW_RUNS or result.seconds >= seconds


def test_seeds_reach_every_shape_of_server() -> None:
    setups = [draw_setup(seed) for seed in range(NUM_RUNS)]
    assert {(s.unified, s.num_prefill, s.num_decode) for s in setups} == {
        (unified, p, d) for unified in (False, True) for p in (1, 2) for d in (1, 2, 3)
    }
    assert {s.page_size for s in setups} == set(range(1, 9))
    assert sum(smallest_pool(s) for s in setups) > NUM_RUNS // 4
    assert {s.sealed_bound for s in setups} == {1, 2, 3}
    assert {s.depth for s in setups} == {1, 2}


def smallest_pool(setup: Setup) -> bool:
    """As small as the ledger allows: one request of full length."""
    return setup.num_pages == -(-setup.max_model_len // setup.page_size)


def test_a_seed_alone_decides_the_run() -> None:
    runs = [Simulation(draw_setup(seed)) for seed in (7, 7, 8)]
    for run in runs:
        run.check_run()
    assert runs[0].trace == runs[1].trace != runs[2].trace
    assert runs[0].tally() == runs[1].tally()


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        ("WrongToken", "AssertionError: r[0-9]: wrong tokens"),
        ("LostKV", "AssertionError: slot [0-9] reads another's KV"),
        ("LateWrite", "AssertionError: slot [0-9] reads another's KV"),
        ("ForgottenSlot", "AssertionError: starved or deadlocked"),
        ("EndlessStep", "RunsForever: the run has computed for 0.3 seconds"),
        ("Crash", "SIGABRT"),
    ],
)
def test_a_planted_bug_is_found_and_its_command_shows_it_again(bug: str, message: str) -> None:
    (failure,) = search(2_000, simulation=f"tests.planted_bugs:{bug}").failures[:1]
    assert re.search(message, failure)
    commands = re.findall("python (-m tests.replay .*)", failure)
    assert len(commands) == (1 if bug == "Crash" else 2)
    for command in commands:
        replayed = subprocess.run(
            [sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True
        )
        assert replayed.returncode == (-6 if bug == "Crash" else 1)
        assert bug == "Crash" or re.search(message, replayed.stdout)


def test_replaying_a_good_seed_tells_its_events() -> None:
    replayed = subprocess.run(
        [sys.executable, "-m", "tests.replay", "7"], cwd=ROOT, capture_output=True, text=True
    )
    assert replayed.returncode == 0, replayed.stdout
    assert "seed=7" in replayed.stdout and "arrives r0" in replayed.stdout
    assert replayed.stdout.endswith("the run keeps every promise\n")
