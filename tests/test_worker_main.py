"""How long a worker waits between turns."""

from __future__ import annotations

from pdrt.worker.main import IDLE_SECONDS, STARVED_SECONDS, wait_after

SHORTEST, LONGEST = STARVED_SECONDS


def test_a_worker_that_computes_does_not_wait() -> None:
    assert wait_after(0.0, moved=True, has_work=True) == 0.0
    assert wait_after(IDLE_SECONDS, moved=True, has_work=False) == 0.0


def test_an_idle_worker_waits_for_frames_and_still_beats() -> None:
    assert wait_after(0.0, moved=False, has_work=False) == IDLE_SECONDS


def test_a_starved_worker_looks_again_soon_and_then_less_often() -> None:
    waits = [IDLE_SECONDS]
    for _ in range(8):
        waits.append(wait_after(waits[-1], moved=False, has_work=True))
    assert waits[1] == SHORTEST and waits[-1] == LONGEST
    assert all(b == min(LONGEST, 2 * a) for a, b in zip(waits[1:], waits[2:], strict=False))
