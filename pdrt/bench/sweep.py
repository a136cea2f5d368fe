"""`python -m pdrt.bench sweep`: rate against goodput of several servers, and where each gives way.

    python -m pdrt.bench sweep --goodput ttft:1000 tpot:60 --rates 0.5 1 2 4 --tokenizer default \\
        --server 'separated={python} -m pdrt.serve --port {port}' \\
        --server 'unified={python} -m pdrt.serve --port {port} --disaggregation-mode unified'

Every round starts each server in turn, in the opposite order of the round before, and gives it all
rates, the same requests to all servers; one at a time, so that none takes another's cores. Between
the last rate that attains enough and the first that does not, --refine more are measured. Rates
above one at which less than half of what is wanted was attained are left out. A server that ends
under a load has no figure for it and is not asked further in that round. What OUTPUT.json holds
already is not measured again, so a sweep that was stopped goes on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pdrt.bench import pages
from pdrt.bench.flags import bench_parser, told
from pdrt.bench.frontiers import between
from pdrt.bench.load import traces
from pdrt.bench.load.arrivals import Arrivals
from pdrt.bench.load.datasets import lookalikes
from pdrt.bench.load.driver import Load
from pdrt.bench.load.flags import (
    above_zero,
    add_load_flags,
    add_target_flags,
    at_least,
    make_sessions,
    make_target,
    make_writer,
)
from pdrt.bench.load.metrics import times_ms
from pdrt.bench.load.prompts import Writer
from pdrt.bench.load.servers import ServerCommand, watched
from pdrt.bench.report import command_line
from pdrt.bench.results import DETAILS, as_result
from pdrt.bench.serve import run_with_bar, warm_up
from pdrt.bench.sweep_state import Sweep, as_line, frontier_table, picture, table
from pdrt.errors import ConfigError, PdrtError

LEAST_REQUESTS = 10  # of a point


def rates_to_come(sweep: Sweep, server: ServerCommand, round_number: int) -> Iterator[float]:
    """Rates from below, then what lies between; each is asked for when the last is done.

    Later rounds repeat what the first one chose.
    """
    wanted = sweep.args.attainment
    chosen = {point["rate"] for point in sweep.of(server)} - set(sweep.args.rates)
    for rate in sorted({*sweep.args.rates, *chosen}):
        done = sweep.of(server, round_number)
        if any(p["rate"] < rate and p["slo_attainment"] < wanted / 2 for p in done):
            break
        if all(p["rate"] != rate for p in done):
            yield rate
    for _ in range(sweep.args.refine - len(chosen) if round_number == 0 else 0):
        middle = between(sweep.of(server), wanted)
        if middle is None:
            return
        yield middle


def run_server(sweep: Sweep, server: ServerCommand, round_number: int, command: str) -> None:
    """All rates of one server in one round.

    Raises:
        PdrtError: the server does not start, answers nothing, or ends under a load.
    """
    to_come = rates_to_come(sweep, server, round_number)
    first = next(to_come, None)
    if first is None:
        return
    with watched(server) as found:
        args = argparse.Namespace(**{**vars(sweep.args), "base_url": found.url})
        target, writer = make_target(args), make_writer(args)
        warm_up(target, warm_up_load(args, writer), f"{server.name}, warm-up")
        for rate in chain([first], to_come):
            place = sweep.place(rate, round_number)
            load = make_load(args, writer, rate, round_number, place)
            what = f"round {round_number + 1}, {server.name}, {rate:g}/s"
            run = run_with_bar(target, load, what)
            found.check_serves()  # one that is gone has failed, which is not to be overloaded
            result = as_result(run, sweep.objectives, command)
            figures = {key: value for key, value in result.items() if key not in DETAILS}
            figures["requests_ms"] = [times_ms(record) for record in run.records]
            point = {"server": server.name, "rate": rate, "round": round_number, "place": place}
            point |= figures
            sweep.points.append(point)
            sweep.save(command)
            print(as_line(point), flush=True)


def make_load(
    args: argparse.Namespace, writer: Writer, rate: float, round_number: int, place: int = 0
) -> Load:
    """Of one point: the same for all servers, other prompts than any other point's of the round.

    Otherwise a prefix cache would know the prompts of one rate from the one before. Prompts that
    are drawn have a seed of the point's own; those of a file begin at `place` in it.

    Raises:
        ConfigError: the file has not as many requests after that.
    """
    count = max(LEAST_REQUESTS, math.ceil(rate * args.seconds))
    point = np.random.SeedSequence((args.seed, round_number, round(rate * 1e6)))
    prompt_seed, arrival_seed = (int(each) for each in point.generate_state(2))
    drawn = argparse.Namespace(**{**vars(args), "num_prompts": count, "seed": prompt_seed})
    first = place if args.dataset in traces.WITH_TEXT else 0
    sessions = make_sessions(drawn, writer, first)
    if len(sessions) < count:
        raise ConfigError(
            f"--dataset-path: {args.dataset_path} has {len(sessions)} requests after the {first} "
            f"that other rates have taken, and {rate:g}/s needs {count}; give a longer file, fewer "
            "--rates or less --seconds"
        )
    arrivals = Arrivals(args.arrivals, rate, args.burstiness, args.burst_size)
    times = arrivals.times(len(sessions), np.random.default_rng(arrival_seed))
    return Load([each.arriving(at) for each, at in zip(sessions, times, strict=True)])


def warm_up_load(args: argparse.Namespace, writer: Writer) -> Load:
    sessions = make_sessions(argparse.Namespace(**{**vars(args), "num_prompts": 4}), writer)
    return Load(lookalikes(writer, sessions, np.random.default_rng((args.seed, 2))), 4)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("sweep", __doc__)
    parser.add_argument("--server", action="append", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--goodput", nargs="+", required=True, metavar="NAME:MS")
    parser.add_argument(
        "--tpot-targets",
        type=float,
        nargs="+",
        default=[],
        metavar="MS",
        help="also the highest rate under each of these in the place of tpot's limit",
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--refine", type=int, default=2, help="rates between, in each round")
    parser.add_argument("--attainment", type=float, default=0.9)
    parser.add_argument("--seconds", type=float, default=30.0, help="of arrivals at each rate")
    parser.add_argument(
        "--arrivals", choices=("poisson", "gamma", "burst", "constant"), default="poisson"
    )
    parser.add_argument("--burstiness", type=float, default=1.0)
    parser.add_argument("--burst-size", type=int, default=8)
    parser.add_argument(
        "--output", type=Path, default=Path("sweep"), help="OUTPUT.json, .html, .png"
    )
    add_target_flags(parser)
    add_load_flags(parser)
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Raises ConfigError: a number is out of range."""
    above_zero(args, "rates", "seconds", "attainment", "tpot_targets")
    at_least(args, 1, "rounds")
    at_least(args, 0, "refine")
    if args.attainment > 1:
        raise ConfigError(f"--attainment is {args.attainment}; it is a share, so 1 at most")


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    command = command_line("python -m pdrt.bench sweep", argv)
    failed: dict[str, str] = {}
    check(args)
    sweep = Sweep.open(args)
    for round_number in tqdm(range(args.rounds), desc="rounds", delay=5):
        for server in sweep.in_order(round_number):
            try:
                run_server(sweep, server, round_number, command)
            except PdrtError as error:
                failed[server.name] = str(error)
                print(f"pdrt: {server.name}: {error}", file=sys.stderr, flush=True)
    sweep.save(command)
    tables = [table(sweep), *([frontier_table(sweep)] if args.tpot_targets else [])]
    print("\n" + "\n\n".join(each.as_text() for each in tables) + "\n")
    said = [f"{name} did not run: {error}" for name, error in failed.items()]
    if sweep.points:
        lines = map(as_line, sweep.points)
        parts: list[pages.Part] = [*tables, picture(sweep), *said, *lines, command]
        for path in pages.write_page(args.output, "Rate against goodput", parts):
            print(path)
    return 1 if failed else 0
