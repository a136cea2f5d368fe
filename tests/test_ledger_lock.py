"""A process that is stopped, or killed, while it holds the lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pdrt import _C_failpoints as C
from tests.ledger_driver import assert_clean, assert_quiet

ROOT = Path(__file__).resolve().parent.parent
STOPPED, SURVIVOR = 1 << 8 | 0, 1 << 8 | 1
DEADLINE = 30.0

# Admits slot 0 and stops itself after its tenth write, in the middle of the section.
STOPS_IN_THE_LOCK = """
import sys
from pdrt import _C_failpoints as C
ledger = C.Ledger.attach(int(sys.argv[1]))
holder = ledger.holder(int(sys.argv[2]))
C.failpoint_arm(10, stop=True)
print(holder.admit(0, 1).name)
"""


@pytest.fixture
def ledger() -> C.Ledger:
    ledger = C.Ledger.create(
        num_pages=8,
        page_size=4,
        num_slots=4,
        max_model_len=16,
        sealed_bound=2,
        lock_timeout_ms=20,
    )
    assert ledger.claim(1, 1, np.arange(9, dtype=np.int32), 4, b"") == (0, 1)
    return ledger


@pytest.fixture
def stopped(ledger: C.Ledger) -> Iterator[subprocess.Popen[str]]:
    """A worker that holds the lock and does not move."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS_IN_THE_LOCK, str(ledger.fd), str(STOPPED)],
        cwd=ROOT,
        pass_fds=[ledger.fd],
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE
    while not is_stopped(process.pid):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    yield process
    process.kill()
    process.communicate()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.chaos
def test_while_a_holder_is_stopped_the_others_are_told_busy(ledger, stopped) -> None:
    holder = ledger.holder(SURVIVOR)
    slot, generation = ledger.claim(2, 2, np.arange(3, dtype=np.int32), 4, b"")
    step = holder.launch()
    started = time.monotonic()
    assert holder.admit(slot, generation) == C.Outcome.BUSY
    assert holder.boundary(step, []) is None
    assert holder.read == 0, "nothing was done"
    assert holder.take(slot, generation) == C.Outcome.BUSY
    for op in (holder.seal, holder.let_go, holder.finish, holder.abort):
        assert op(slot) == C.Outcome.BUSY
    assert holder.grow(slot, 1) == C.Outcome.BUSY
    assert ledger.reap(SURVIVOR) == C.Outcome.BUSY
    assert ledger.audit() is None
    assert time.monotonic() - started < DEADLINE, "each wait has a deadline of 20 ms"
    assert ledger.mark_abort(slot, generation), "the router needs no lock"
    assert ledger.sweep() is None


@pytest.mark.chaos
def test_one_holding_is_recognised_by_owner_and_acquisition(ledger, stopped) -> None:
    first = ledger.lock_state()
    assert first.owner == stopped.pid
    assert ledger.holder(SURVIVOR).admit(0, 1) == C.Outcome.BUSY
    second = ledger.lock_state()
    assert (second.owner, second.acquisition) == (first.owner, first.acquisition)


@pytest.mark.chaos
def test_after_the_stopped_holder_is_killed_the_next_taker_rebuilds(ledger, stopped) -> None:
    before = ledger.lock_state()
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.wait()
    assert_clean(ledger)
    assert ledger.counters().rebuilt == 1
    assert ledger.lock_state().owner == 0
    assert ledger.lock_state().acquisition == before.acquisition + 1
    assert ledger.word(0).holder == STOPPED, "the taker releases nothing of the dead"
    assert ledger.reap(STOPPED) == C.Outcome.DONE
    assert ledger.word(0).phase == C.Phase.QUEUED
    assert_quiet(ledger)


@pytest.mark.chaos
def test_a_stopped_holder_that_goes_on_finishes_its_operation(ledger, stopped) -> None:
    os.kill(stopped.pid, signal.SIGCONT)
    output, _ = stopped.communicate(timeout=DEADLINE)
    assert output == "DONE\n"
    assert ledger.word(0).phase == C.Phase.PREFILLING
    assert_clean(ledger)
    assert ledger.counters().rebuilt == 0
