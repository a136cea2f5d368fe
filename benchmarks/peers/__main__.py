"""pdrt and its peers under the same load in the same run; see README.md beside this file.

Sets up what is missing, checks that all compute the same tokens, plays the rounds, and prints
medians, ratios and targets. The JSON is written after each round, so that a run that is stopped
leaves what it had.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.peers.agreement import agreements
from benchmarks.peers.contestants import CONTESTANTS, Contestant, Setting
from benchmarks.peers.environments import Environment, install
from benchmarks.peers.figures import OURS, Ratio, ratios, summary
from benchmarks.peers.load import Passages, make_round
from benchmarks.peers.rounds import Findings, play
from benchmarks.peers.table import agreement_lines, figure_lines, ratio_lines
from benchmarks.peers.weights import weights
from pdrt.bench.flags import positive
from pdrt.bench.report import command_line, provenance
from pdrt.bench.stopping import end_at_signals
from pdrt.errors import PdrtError

HERE = Path(__file__).parent
BUSY = 0.5  # load average above which the machine is doing something else


def parse(argv: Sequence[str]) -> argparse.Namespace:
    names = [each.name for each in CONTESTANTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument(
        "--rounds", type=positive, default=3, help="each starts every contestant once"
    )
    parser.add_argument("--samples", type=positive, default=2, help="of each measure, in a round")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--seed", type=int, default=0, help="where the prompts are cut")
    parser.add_argument(
        "--environments", type=Path, default=HERE / ".env", help="where the peers are, or will be"
    )
    parser.add_argument("--set-up", action="store_true", help="install and convert, run nothing")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    args = parser.parse_args(argv)
    if not (args.set_up or args.out):
        parser.error("--out FILE.json says where the figures go; or --set-up to install only")
    return args


def set_up(args: argparse.Namespace) -> dict[Contestant, Setting]:
    """What each contestant is started with; those that cannot be installed are told and left out.

    Raises:
        PdrtError: the model cannot be had.
    """
    wanted = [each for each in CONTESTANTS if each.name in args.only]
    names = dict.fromkeys(each.environment for each in wanted if each.environment)
    environments = {name: install(name, args.environments) for name in names}
    for environment in environments.values():
        print(environment, flush=True)
    model = weights(args.environments / "weights")
    logs = args.environments.resolve() / "logs"
    logs.mkdir(exist_ok=True)

    def setting(each: Contestant) -> Setting:
        environment = environments[each.environment] if each.environment else None
        return Setting(model, args.threads, logs / f"{each.name}.log", environment)

    settings = {each: setting(each) for each in wanted}
    return {each: made for each, made in settings.items() if _can_run(made.environment)}


def _can_run(environment: Environment | None) -> bool:
    return environment is None or not environment.problem


def run(args: argparse.Namespace, argv: Sequence[str], settings: dict[Contestant, Setting]) -> None:
    """Plays, tells and keeps the results."""
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"load average is {load:.1f}: others use the cores, figures will be noisy")
    model = next(iter(settings.values())).weights
    rounds = [
        make_round(Passages(model.checkpoint, args.seed + number), args.samples)
        for number in range(args.rounds)
    ]
    findings = Findings()
    facts = _facts(args, argv, settings) | {"load_average_before": load}
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        args.out.write_text(json.dumps(facts | results(findings), indent=2) + "\n")

    play(settings, rounds, findings, keep)
    print("\n".join(report(findings)))


def _facts(
    args: argparse.Namespace, argv: Sequence[str], settings: dict[Contestant, Setting]
) -> dict[str, object]:
    """Where the figures come from."""
    peers = {s.environment.name: s.environment.version for s in settings.values() if s.environment}
    return {
        "bench": "peers",
        **provenance(command_line("python -m benchmarks.peers", argv)),
        "peers": peers,
        "contestants": {each.name: each.note for each in settings},
        "settings": {key: vars(args)[key] for key in ("rounds", "samples", "threads", "seed")},
    }


def results(findings: Findings) -> dict[str, object]:
    """Everything that the table says, for programs."""
    return {
        "agreement": {name: asdict(each) for name, each in agreements(findings.checked).items()},
        "figures": summary(findings.samples),
        "ratios": [asdict(each) | {"verdict": each.verdict} for each in trusted(findings)],
        "problems": findings.problems,
    }


def trusted(findings: Findings) -> list[Ratio]:
    """Ratios between those that compute the same model."""
    found = agreements(findings.checked)
    fair = {name for name, each in found.items() if each.trusted}
    if OURS not in fair:
        return []
    return list(ratios([each for each in findings.samples if each.contestant in fair]))


def report(findings: Findings) -> list[str]:
    compared = trusted(findings)
    return [
        "",
        *agreement_lines(agreements(findings.checked)),
        "",
        *figure_lines(summary(findings.samples)),
        *(["", *ratio_lines(compared)] if compared else []),
        *(f"{name}: failed: {problem}" for name, problem in findings.problems.items()),
    ]


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    end_at_signals()
    try:
        settings = set_up(args)
        if settings and not args.set_up:
            run(args, argv, settings)
    except PdrtError as error:
        print(f"pdrt: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
