"""A sweep's plan and its points in one file, written after each point; and how they are shown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdrt.bench import pages
from pdrt.bench.frontiers import Highest, Point, by_rate, highest, under
from pdrt.bench.load.metrics import Objectives
from pdrt.bench.load.servers import ServerCommand
from pdrt.bench.report import hidden, provenance
from pdrt.bench.tables import Table
from pdrt.errors import ConfigError

NOT_OF_THE_LOAD = ("output", "server", "rounds", "rates", "refine", "base_url", "tpot_targets")


@dataclass
class Sweep:
    """What is to be measured, and what was; the file holds both."""

    args: argparse.Namespace
    path: Path
    servers: Sequence[ServerCommand]
    objectives: Objectives
    points: list[Point]

    @classmethod
    def open(cls, args: argparse.Namespace) -> Sweep:
        """Goes on with the file, if there is one.

        Raises:
            ConfigError: a flag is wrong, or the file is of another load or other servers.
        """
        servers = [ServerCommand.parse(each) for each in args.server]
        names = [each.name for each in servers]
        if len(set(names)) < len(names):
            raise ConfigError(f"--server names {', '.join(names)}; give each a name of its own")
        path = pages.beside(args.output, ".json")
        sweep = cls(args, path, servers, Objectives.parse(args.goodput), [])
        if path.exists():
            found = json.loads(path.read_text())
            if found.get("spec") != sweep.spec():
                raise ConfigError(f"{path} is of another sweep; give another --output")
            sweep.points = found["points"]
        return sweep

    def spec(self) -> dict[str, Any]:
        """What makes points comparable."""
        load = {key: value for key, value in vars(self.args).items() if key not in NOT_OF_THE_LOAD}
        load["header"] = [hidden(each) for each in self.args.header]
        spec = {"load": load, "servers": {each.name: each.command for each in self.servers}}
        plain: dict[str, Any] = json.loads(json.dumps(spec, default=str))
        return plain

    def of(self, server: ServerCommand, round_number: int | None = None) -> list[Point]:
        return [
            point
            for point in self.points
            if point["server"] == server.name and round_number in (None, point["round"])
        ]

    def place(self, rate: float, round_number: int) -> int:
        """Number of the file's request that a point begins with, where prompts are a file's own.

        It is that of the same rate's point of another server, else after all that the round has
        taken. The next round begins at 0 again: servers are started anew.
        """
        taken = [point for point in self.points if point["round"] == round_number]
        for point in taken:
            if point["rate"] == rate:
                return int(point.get("place", 0))
        ends = (p.get("place", 0) + p["completed"] + p["failed"] for p in taken)
        return max(ends, default=0)

    def in_order(self, round_number: int) -> list[ServerCommand]:
        """Every other round the other way round."""
        return list(self.servers if round_number % 2 == 0 else reversed(self.servers))

    def save(self, command: str) -> None:
        """By a new file that takes the old one's place: a stop leaves one or the other whole."""
        result = {
            "bench": "sweep",
            **provenance(command),
            "spec": self.spec(),
            "attainment": self.args.attainment,
            "highest": {each.name: str(self.highest(each)) for each in self.servers},
            "frontier": {
                each.name: [str(found) for found in self.frontier(each)] for each in self.servers
            },
            "points": self.points,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(result) + "\n")
        fresh.replace(self.path)

    def highest(self, server: ServerCommand) -> Highest:
        return highest(self.of(server), self.args.attainment)

    def frontier(self, server: ServerCommand) -> list[Highest]:
        """For each of the TPOT targets."""
        limits = [{**self.objectives.limits, "tpot": target} for target in self.args.tpot_targets]
        judged = [under(self.of(server), Objectives(each)) for each in limits]
        return [highest(points, self.args.attainment) for points in judged]


def as_line(point: Point) -> str:
    return (
        f"round {point['round'] + 1}, {point['server']}, {point['rate']:g}/s: "
        f"{point['slo_attainment']:.1%} attained, goodput {point['request_goodput']:.3f}/s, "
        f"p99 TTFT {_ms(point['p99_ttft_ms'])}, p99 TPOT {_ms(point['p99_tpot_ms'])}, "
        f"{point['failed']} failed"
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def table(sweep: Sweep) -> Table:
    """One row a server: the highest rate, of all rounds and of each."""
    rows = []
    for server in sweep.servers:
        found = sweep.highest(server)
        rounds = ", ".join("-" if each is None else f"{each:.3g}" for each in found.by_round)
        goodput = max(
            (value for _, value in by_rate(sweep.of(server), "request_goodput")), default=0
        )
        rows.append((server.name, str(found), rounds, f"{goodput:.3g}"))
    heads = ("server", f"requests/s at {sweep.args.attainment:.0%}", "by round", "best goodput/s")
    return Table(heads, rows)


def frontier_table(sweep: Sweep) -> Table:
    """One row a TPOT target: the highest rate of each server."""
    columns = [[str(found) for found in sweep.frontier(each)] for each in sweep.servers]
    targets = [f"{target:g}" for target in sweep.args.tpot_targets]
    heads = ("TPOT, ms", *(each.name for each in sweep.servers))
    return Table(heads, list(zip(targets, *columns, strict=True)))


def picture(sweep: Sweep) -> bytes:
    """Attainment and goodput against the offered rate, dots are rounds and lines their means; and
    the highest rate against the TPOT target, where there are targets."""
    targets = sweep.args.tpot_targets
    drawn = pages.figure(18 if targets else 12, 5)
    attained, goodput, *rest = drawn.subplots(1, 3 if targets else 2)
    for axes in rest:
        for server in sweep.servers:
            rates = [found.rate or 0.0 for found in sweep.frontier(server)]
            axes.plot(targets, rates, ".-", label=server.name)
        axes.set_xlabel("TPOT target, ms")
        axes.set_ylabel(f"highest requests/s at {sweep.args.attainment:.0%}")
    for axes, figure in ((attained, "slo_attainment"), (goodput, "request_goodput")):
        for number, server in enumerate(sweep.servers):
            points, colour = sweep.of(server), f"C{number}"
            axes.plot([p["rate"] for p in points], [p[figure] for p in points], ".", color=colour)
            axes.plot(*zip(*by_rate(points, figure), strict=True), color=colour, label=server.name)
        axes.set_xlabel("offered requests/s")
    attained.axhline(sweep.args.attainment, color="black", linewidth=0.8, linestyle="--")
    attained.set_ylabel("share of requests within every limit")
    goodput.set_ylabel("requests/s within every limit")
    attained.legend()
    return pages.png(drawn)
