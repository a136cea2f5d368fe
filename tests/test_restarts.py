"""When a dead worker is started again, and when the server gives up."""

from __future__ import annotations

import pytest

from pdrt.errors import EngineDead
from pdrt.worker.process import ended_how
from pdrt.worker.restarts import MAX_DEATHS, MAX_FAILED_STARTS, WINDOW, Restarts
from tests.fixtures_clock import Clock


def test_one_that_has_served_is_started_again_at_once_and_named_once(clock: Clock) -> None:
    restarts = Restarts(clock)
    restarts.died("decode-0", came_up=True, why="was killed by SIGKILL")
    assert restarts.are_due() == ["decode-0"]
    assert restarts.are_due() == []


def test_pauses_double_until_one_that_never_comes_up_is_given_up(clock: Clock) -> None:
    restarts, pauses = Restarts(clock), []
    for _ in range(MAX_FAILED_STARTS - 1):
        died = clock.now
        restarts.died("decode-0", came_up=False, why="exited with code 7")
        while not restarts.are_due():
            clock.now += 0.25
        pauses.append(clock.now - died)
        clock.now += 100.0  # each start may take long
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    with pytest.raises(EngineDead, match="decode-0 could not be started again, 5 times .* code 7"):
        restarts.died("decode-0", came_up=False, why="exited with code 7")


def test_failed_starts_count_in_a_row_and_for_one_worker(clock: Clock) -> None:
    restarts = Restarts(clock)
    for i in range(3 * MAX_FAILED_STARTS):
        clock.now += WINDOW
        worker = f"decode-{i % 2}"
        restarts.died(worker, came_up=i % 4 > 1, why="x")
        clock.now += WINDOW
        assert restarts.are_due() == [worker]


def test_workers_that_come_up_and_die_too_often_are_a_crash_loop(clock: Clock) -> None:
    restarts = Restarts(clock)
    for _ in range(MAX_DEATHS):
        restarts.died("decode-0", came_up=True, why="x")
    clock.now += WINDOW
    for _ in range(MAX_DEATHS):
        restarts.died("decode-0", came_up=True, why="x")
    with pytest.raises(EngineDead, match="workers died 21 times in 60 s, decode-0 the last: x"):
        restarts.died("decode-0", came_up=True, why="x")


def test_every_end_of_a_process_has_words() -> None:
    assert ended_how(7) == "exited with code 7"
    assert ended_how(-9) == "was killed by SIGKILL"
    assert ended_how(-35) == "was killed by signal 35"
