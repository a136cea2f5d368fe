"""`python -m pdrt.bench start`: seconds until a server answers, and the memory of its processes.

Starts it several times. Time ends when /health answers 200, which is asked every 0.2 s. Memory is
what all its processes hold beside weights, pages and ledger, after a few requests: libraries, code,
Python's objects, buffers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pdrt.bench.flags import add_server_flags, bench_parser, positive, told
from pdrt.bench.load.api import Target
from pdrt.bench.load.asking import served_model
from pdrt.bench.load.driver import Load
from pdrt.bench.load.prompts import Vocabulary, Writer
from pdrt.bench.load.servers import own_server, running
from pdrt.bench.load.sessions import Session, Turn
from pdrt.bench.processes import own_bytes, server_processes
from pdrt.bench.report import command_line, emit, provenance
from pdrt.bench.serve import warm_up
from pdrt.bench.tables import Table
from pdrt.config import cache_dir
from pdrt.model.source import resolve

STREAMS, INPUT_LEN, OUTPUT_LEN = 8, 130, 32  # of the requests before memory is read


class Start(NamedTuple):
    """One start: seconds until it served, and the bytes of each process by its name."""

    seconds: float
    own_bytes: Mapping[str, int]

    @property
    def megabytes(self) -> float:
        return sum(self.own_bytes.values()) / 1e6


def measure(args: argparse.Namespace) -> list[Start]:
    """Raises PdrtError where the server does not start or a request fails."""
    rng = np.random.default_rng(args.seed)
    server = own_server("the server", args.model, args.flags)
    # Fetches the default model, so that the first start does not.
    writer = Writer(Vocabulary(resolve(args.model, cache_dir())), as_ids=True)
    found = []
    for _ in tqdm(range(args.starts), desc="starts", delay=5, leave=None):
        began = time.monotonic()
        with running(server) as url:
            seconds = time.monotonic() - began
            prompts = (writer.prompt(INPUT_LEN, rng) for _ in range(STREAMS))
            sessions = [Session((Turn(each, OUTPUT_LEN, INPUT_LEN),)) for each in prompts]
            warm_up(Target(url, model=served_model(url)), Load(sessions))
            processes = server_processes().items()
            found.append(Start(seconds, {name: own_bytes(path) for name, path in processes}))
    return found


def as_table(found: Sequence[Start]) -> str:
    seconds = sorted(each.seconds for each in found)
    rows = [
        ("seconds to the first answer", f"{median(seconds):.1f}"),
        ("  shortest and longest", f"{seconds[0]:.1f} - {seconds[-1]:.1f}"),
    ]
    for name in found[0].own_bytes:
        rows.append((f"MB of {name}", f"{median(e.own_bytes[name] for e in found) / 1e6:.0f}"))
    rows.append(("MB of all", f"{median(each.megabytes for each in found):.0f}"))
    return Table(("", f"{len(found)} starts"), rows).as_text()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("start", __doc__)
    add_server_flags(parser)
    parser.add_argument("--starts", type=positive, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="file for the JSON")
    return parser.parse_args(argv)


@told
def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    found = measure(args)
    print(as_table(found))
    result = {
        "seconds": [each.seconds for each in found],
        "own_bytes": [dict(each.own_bytes) for each in found],
        "own_megabytes": [each.megabytes for each in found],
    }
    command = command_line("python -m pdrt.bench start", argv)
    emit({"bench": "start", **provenance(command), **result}, args.output)
    return 0
