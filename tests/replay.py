"""One simulated run from its seed, told event by event:

    python -m tests.replay SEED [--requests N] [--events N] [--simulation MODULE:CLASS]

`--requests` and `--events` make the load of the seed smaller; a search that finds a failing seed
says with which numbers the run still fails. Exits with 1 when the run fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from tests.simulated_setup import Setup, draw_setup
from tests.simulation import Simulation

SIMULATION = "tests.simulation:Simulation"


class RunsForever(Exception):
    """A run that has used up its CPU time."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises RunsForever in this process's main thread when the block has computed for so long."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise RunsForever(f"the run has computed for {seconds} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def simulation_type(name: str) -> type[Simulation]:
    """The class named MODULE:CLASS."""
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert issubclass(found, Simulation), name
    return found


def error_of(simulation: Simulation) -> Exception | None:
    """Runs it. Whatever it raises is what this seed found."""
    try:
        with cpu_limit(simulation.cpu_seconds):
            simulation.check_run()
    except Exception as error:
        return error
    return None


def simplest(kind: type[Simulation], setup: Setup) -> Setup:
    """A setup that fails as well, with as few requests as possible and then few events."""

    def first_failing(candidates: list[Setup]) -> Setup:
        return next((each for each in candidates if error_of(kind(each))), setup)

    some = range(1, setup.num_requests + 1)
    setup = first_failing([dataclasses.replace(setup, num_requests=n) for n in some])
    halves = [setup.num_events >> shift for shift in range(setup.num_events.bit_length(), -1, -1)]
    return first_failing([dataclasses.replace(setup, num_events=n) for n in halves])


def command(setup: Setup, simulation: str = SIMULATION) -> str:
    """What shows this run again."""
    drawn = draw_setup(setup.seed)
    parts = [f"python -m tests.replay {setup.seed}"]
    if setup.num_requests != drawn.num_requests:
        parts.append(f"--requests {setup.num_requests}")
    if setup.num_events != drawn.num_events:
        parts.append(f"--events {setup.num_events}")
    if simulation != SIMULATION:
        parts.append(f"--simulation {simulation}")
    return " ".join(parts)


def setup_of(arguments: argparse.Namespace) -> Setup:
    setup = draw_setup(arguments.seed)
    return dataclasses.replace(
        setup,
        num_requests=arguments.requests or setup.num_requests,
        num_events=setup.num_events if arguments.events is None else arguments.events,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.replay")
    parser.add_argument("seed", type=int)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--events", type=int)
    parser.add_argument("--simulation", default=SIMULATION, metavar="MODULE:CLASS")
    arguments = parser.parse_args(argv)
    setup = setup_of(arguments)
    print(setup)
    simulation = simulation_type(arguments.simulation)(setup)
    for client in simulation.clients:
        print(client.request)
    error = error_of(simulation)
    for number, event in enumerate(simulation.trace):
        print(f"{number:5}", *event)
    if error is None:
        print("the run keeps every promise")
        return 0
    traceback.print_exception(error, file=sys.stdout)
    return 1


if __name__ == "__main__":
    sys.exit(main())
