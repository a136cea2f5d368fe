"""One process of a search: runs every n-th seed and ends with one line of JSON, what it saw.

Started by tests.search, never by hand. The descriptor in its arguments holds the seed that runs, so
that the seed is known even if the process dies of it.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import signal
import sys
import time
from collections import Counter

from tests.replay import command, error_of, simplest, simulation_type
from tests.simulated_setup import draw_setup

PR_SET_PDEATHSIG = 1
PROGRESS_SECONDS = 10.0


@dataclasses.dataclass
class Report:
    """What one process saw."""

    runs: int = 0
    tally: Counter[str] = dataclasses.field(default_factory=Counter)
    failure: str | None = None


def explain(name: str, seed: int, error: Exception) -> str:
    """Why a seed fails, how it is set up, and how to see it again, large and small."""
    setup = draw_setup(seed)
    small = simplest(simulation_type(name), setup)
    return "\n".join(
        [
            f"seed {seed} fails: {type(error).__name__}: {error}",
            f"  {setup}",
            f"  again:    {command(setup, name)}",
            f"  smallest: {command(small, name)}",
        ]
    )


def search(arguments: argparse.Namespace) -> Report:
    """Runs the seeds of this process until one fails, all are done, or the time is over."""
    report = Report()
    kind = simulation_type(arguments.simulation)
    seeds = range(arguments.first, arguments.end, arguments.step)
    began = told = time.monotonic()
    for seed in seeds:
        os.pwrite(arguments.seed_fd, str(seed).encode().ljust(20), 0)
        simulation = kind(draw_setup(seed))
        if error := error_of(simulation):
            report.failure = explain(arguments.simulation, seed, error)
            break
        report.runs += 1
        report.tally.update(simulation.tally())
        now = time.monotonic()
        if now - told > PROGRESS_SECONDS:
            told = now
            print(f"{report.runs} of {len(seeds)} runs, {now - began:.0f} s", file=sys.stderr)
        if now - began > arguments.seconds:
            break
    return report


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parser = argparse.ArgumentParser()
    for name in ("first", "end", "step", "seed-fd"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--simulation", required=True)
    print(json.dumps(vars(search(parser.parse_args()))))


if __name__ == "__main__":
    main()
