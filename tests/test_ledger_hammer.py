"""Threads and processes work on one ledger for some seconds; all requests come out right."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pdrt import _C
from tests.ledger_driver import (
    Clients,
    Worker,
    assert_clean,
    assert_quiet,
    map_pool,
    new_pool,
    new_pool_file,
    run_to_end,
)

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 4.0
SIZES = {"num_pages": 24, "num_slots": 12, "max_model_len": 40, "sealed_bound": 3}


class Traffic:
    """Short prompts with many equal prefixes; one client in ten leaves early."""

    def __init__(self, ledger: _C.Ledger, seed: int) -> None:
        self.ledger, self.clients = ledger, Clients(_C, ledger)
        self.random = random.Random(seed)
        self.leaving: list[tuple[int, int]] = []  # slots and generations

    def turn(self) -> None:
        prompt = [self.random.randrange(2) for _ in range(self.random.randrange(1, 24))]
        slot = self.clients.submit(prompt, self.random.randrange(1, 16))
        if slot is not None and self.random.random() < 0.1:
            self.leaving.append((slot, self.ledger.word(slot).generation))
        if self.leaving and self.random.random() < 0.1:
            self.ledger.mark_abort(*self.leaving.pop())
        self.clients.collect()
        self.ledger.sweep()

    def run(self, seconds: float) -> None:
        """Turns with an audit each, as fast as the others let it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()
            audit = self.ledger.audit()
            assert audit is None or audit.violations == []


def test_threads_share_a_ledger(make_ledger) -> None:
    ledger = make_ledger(**SIZES)
    pool, stop, failures = new_pool(ledger), threading.Event(), []
    workers = [Worker(_C, ledger, 1 << 8 | i, pool) for i in range(3)]

    def work(worker: Worker) -> None:
        try:
            while not stop.is_set():
                worker.turn()
        except Exception as error:  # shown by the test's thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=[worker]) for worker in workers]
    for thread in threads:
        thread.start()
    traffic = Traffic(ledger, seed=1)
    try:
        traffic.run(SECONDS)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    run_to_end(traffic.clients, workers)
    assert ledger.counters().finished > 20 and ledger.counters().rebuilt == 0


class Crew:
    """Worker processes that are killed and replaced."""

    def __init__(self, ledger: _C.Ledger, pool_fd: int, size: int) -> None:
        self.ledger, self.pool_fd, self.incarnation = ledger, pool_fd, 0
        self.processes = [self.start(i) for i in range(size)]

    def start(self, index: int) -> tuple[int, subprocess.Popen[bytes]]:
        self.incarnation += 1
        instance = self.incarnation << 8 | index
        fds = [self.ledger.fd, self.pool_fd]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ledger_worker", *map(str, [*fds, instance])],
            cwd=ROOT,
            pass_fds=fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return instance, process

    def kill_one(self, index: int) -> None:
        instance, process = self.processes[index]
        process.kill()
        process.communicate()
        while self.ledger.reap(instance) == _C.Outcome.BUSY:
            pass
        self.processes[index] = self.start(index)

    def close(self) -> None:
        for instance, process in self.processes:
            process.communicate()  # closes its stdin, at which it ends
            assert process.returncode == 0, "a worker failed"
            assert self.ledger.reap(instance) == _C.Outcome.DONE


@pytest.mark.chaos
def test_processes_are_killed_at_any_time_and_every_request_comes_out_right(make_ledger) -> None:
    ledger = make_ledger(**SIZES)
    pool_fd = new_pool_file(ledger)
    crew, traffic = Crew(ledger, pool_fd, 3), Traffic(ledger, seed=2)
    for _, process in crew.processes:
        assert process.stdout.readline() == b"ready\n"
    for round in range(8):
        traffic.run(SECONDS / 8 + traffic.random.random() / 10)
        crew.kill_one(round % 3)
    crew.close()
    assert_clean(ledger)
    run_to_end(traffic.clients, [Worker(_C, ledger, 99 << 8, map_pool(ledger, pool_fd))])
    assert_quiet(ledger)
    assert ledger.counters().finished > 20
    os.close(pool_fd)
