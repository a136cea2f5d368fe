"""Many simulated runs, spread over processes, until one fails:

    python -m tests.search [--first SEED] [--runs N] [--seconds S] [--processes N]

Seeds are counted up from `--first`, so the same command makes the same runs. A failing seed is told
with its setup and the command that replays it (tests.replay).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.replay import SIMULATION, command
from tests.simulated_setup import draw_setup

ROOT = Path(__file__).parent.parent


@dataclass
class Result:
    """What all processes saw; `failures` are texts, one for each seed that failed."""

    runs: int = 0
    seconds: float = 0.0
    tally: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


@dataclass
class _Process:
    child: subprocess.Popen[str]
    seed: IO[bytes]  # the file where it notes the seed that runs

    def result(self, simulation: str) -> tuple[int, dict[str, int], str | None]:
        """Of a process that has ended: (runs, tally, failure)."""
        assert self.child.stdout
        if self.child.wait() == 0:
            report = json.loads(self.child.stdout.read())
            return report["runs"], report["tally"], report["failure"]
        assert self.child.returncode < 0, "the search itself failed; its error stands above"
        self.seed.seek(0)
        setup, name = draw_setup(int(self.seed.read())), signal.Signals(-self.child.returncode).name
        return 0, {}, f"seed {setup.seed}: {name}\n  {setup}\n  again: {command(setup, simulation)}"


def search(
    runs: int,
    *,
    first: int = 0,
    seconds: float = math.inf,
    processes: int = 2,
    simulation: str = SIMULATION,
) -> Result:
    """Runs the seeds first, first + 1, ...: `runs` of them, or as many as the seconds allow."""
    began = time.monotonic()
    total = Result()
    with ExitStack() as stack:
        started = []
        for index in range(processes):
            seed = stack.enter_context(tempfile.TemporaryFile())
            child = stack.enter_context(
                _start(seed, first + index, first + runs, processes, seconds, simulation)
            )
            stack.callback(child.kill)
            started.append(_Process(child, seed))
        for process in _as_they_end(started):
            done, tally, failure = process.result(simulation)
            total.runs += done
            total.tally.update(tally)
            if failure:
                total.failures.append(failure)
                break
    total.seconds = time.monotonic() - began
    return total


def _start(
    seed: IO[bytes], first: int, end: int, step: int, seconds: float, simulation: str
) -> subprocess.Popen[str]:
    numbers = {"first": first, "end": end, "step": step, "seed-fd": seed.fileno()}
    options = {**numbers, "seconds": seconds, "simulation": simulation}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.search_worker"]
        + [f"--{name}={value}" for name, value in options.items()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        pass_fds=[seed.fileno()],
        text=True,
    )


def _as_they_end(processes: Sequence[_Process]) -> Iterator[_Process]:
    left = list(processes)
    while left:
        for process in [each for each in left if each.child.poll() is not None]:
            left.remove(process)
            yield process
        time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.search")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--simulation", default=SIMULATION, metavar="MODULE:CLASS")
    arguments = parser.parse_args()
    result = search(**vars(arguments))
    for name, count in sorted(result.tally.items()):
        print(f"{count:12} {name}")
    print(f"{result.runs} runs without a failure in {result.seconds:.1f} s")
    print(*result.failures, sep="\n")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
