"""`python -m pdrt.bench frontend`: what a token costs outside of the workers.

    new       streams of prompts that the server has not seen
    cached    the same again: their KV is in the prefix cache, only tokens go out

Starts a server, sends both loads by turns, and reads the CPU time of each of its processes before
and after. Cores that front end and keeper take are taken from the kernels. The system counts CPU
time in ticks of 10 ms: a load should give a thousand tokens and more.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from pdrt.bench.flags import add_server_flags, bench_parser, positive, told
from pdrt.bench.load.api import Target
from pdrt.bench.load.asking import served_model
from pdrt.bench.load.driver import Load
from pdrt.bench.load.prompts import Vocabulary, Writer
from pdrt.bench.load.servers import own_server, running
from pdrt.bench.load.sessions import Session, Turn
from pdrt.bench.processes import cpu_seconds, server_processes
from pdrt.bench.report import command_line, emit, provenance
from pdrt.bench.serve import run_with_bar, warm_up
from pdrt.bench.tables import Table
from pdrt.config import cache_dir
from pdrt.errors import PdrtError
from pdrt.model.source import resolve

WITHOUT_MODEL = ("front end", "keeper")
RATE = 300  # tokens a second, for which shares of a core are told

Costs = dict[str, float]  # of each process, in microseconds of CPU time a token


def costs(target: Target, sessions: Sequence[Session], what: str) -> Costs:
    """Sends all sessions at once.

    Raises:
        PdrtError: a request failed, or had not as many tokens as were asked for.
    """
    before = _cpu_times()
    records = run_with_bar(target, Load(sessions), what).records
    after = _cpu_times()
    for record in records:
        if record.error or record.output_tokens != record.wanted_tokens:
            seen = f"{record.output_tokens} of {record.wanted_tokens} tokens"
            raise PdrtError(f"{what}: a request failed: {record.error or seen}")
    tokens = sum(record.output_tokens for record in records)
    return {name: (after[name] - before[name]) * 1e6 / tokens for name in before}


def _cpu_times() -> dict[str, float]:
    return {name: cpu_seconds(process) for name, process in server_processes().items()}


def measure(args: argparse.Namespace) -> dict[str, list[Costs]]:
    """The costs of each load, one for each round.

    Raises:
        PdrtError: the server does not start, or a request failed.
    """
    writer = Writer(Vocabulary(resolve(args.model, cache_dir())), as_ids=True)
    rng = np.random.default_rng(args.seed)

    def sessions() -> list[Session]:
        prompts = (writer.prompt(args.input_len, rng) for _ in range(args.streams))
        return [Session((Turn(each, args.output_len, args.input_len),)) for each in prompts]

    found: dict[str, list[Costs]] = {"new": [], "cached": []}
    with running(own_server("the server", args.model, args.flags)) as url:
        target = Target(url, model=served_model(url))
        warm_up(target, Load(sessions()))
        for number in range(1, args.rounds + 1):
            load = sessions()
            for name, each in found.items():
                each.append(costs(target, load, f"round {number}, {name} prompts"))
    return found


def without_model(each: Costs) -> float:
    """Microseconds a token, of the processes that compute nothing of the model."""
    return sum(each[name] for name in WITHOUT_MODEL)


def summary(found: Mapping[str, Sequence[Costs]]) -> dict[str, object]:
    """Of each load: the median of each process, and what front end and keeper take together."""
    return {
        load: {
            "us_per_token": {name: median(each[name] for each in rounds) for name in rounds[0]},
            "front_end_and_keeper_us": sorted(map(without_model, rounds)),
            f"share_of_a_core_at_{RATE}": median(map(without_model, rounds)) * RATE / 1e6,
        }
        for load, rounds in found.items()
    }


def as_table(found: Mapping[str, Sequence[Costs]]) -> str:
    names = list(next(iter(found.values()))[0])
    rows = [
        (name, *(f"{median(each[name] for each in rounds):.0f}" for rounds in found.values()))
        for name in names
    ]
    together = [list(map(without_model, rounds)) for rounds in found.values()]
    rows += [
        ("front end and keeper", *(f"{median(each):.0f}" for each in together)),
        ("  lowest and highest", *(f"{min(each):.0f} - {max(each):.0f}" for each in together)),
        (f"  at {RATE} tokens a second", *(f"{median(e) * RATE / 1e6:.1%}" for e in together)),
    ]
    heads = ("us of CPU time a token", *(f"{load} prompts" for load in found))
    return Table(heads, rows).as_text()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("frontend", __doc__)
    add_server_flags(parser)
    parser.add_argument("--streams", type=positive, default=16, help="requests at once")
    parser.add_argument("--input-len", type=int, default=130)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    found = measure(args)
    print(as_table(found))
    command = command_line("python -m pdrt.bench frontend", argv)
    emit({"bench": "frontend", **provenance(command), **summary(found)}, args.output)
    return 0
