"""Runs the parts of parts.toml on a machine with a GPU, within a time limit; see run.sh.

What is written to OUT_DIR, after each part and at the end, SIGTERM included:

    summary.md, summary.json   parts, targets, all rows
    *.svg                      roofline, bandwidth, the serving frontier
    parts/NAME.json            one part: status, command, its whole result
    logs/NAME.log              what it printed

With --bundle, parts and logs are in results.tar.gz instead, for machines that give back few files.
The exit code is 0 if no part that could run failed, 1 otherwise, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tarfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pdrt.bench.report import commit
from pdrt.bench.suite.conditions import Conditions
from pdrt.bench.suite.parts import Outcome, Part, Runner, Stopped
from pdrt.bench.suite.summary import Run, write_summary
from pdrt.bench.suite.targets import read_targets

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "benchmarks/gpu"
BUDGET = {"full": 540.0, "quick": 240.0}  # seconds
MARKS = {"passed": "ok", "skipped": "--"}


def main(argv: Sequence[str]) -> int:
    """argv: the scratch folder that run.sh made, which goes in the end, and what the user gave."""
    work = Path(argv[0])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        args = parse(argv[1:])
        args.work = work
        return run_all(args, chosen(args))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("mode", nargs="?", choices=tuple(BUDGET), default="full")
    parser.add_argument(
        "--only", metavar="NAMES", help="parts that run, or patterns of them, with commas"
    )
    parser.add_argument("--bundle", action="store_true", help="parts and logs as results.tar.gz")
    parser.add_argument("--seconds", type=float, help="time for all parts (full 540, quick 240)")
    parser.add_argument("--parts", type=Path, default=HERE / "parts.toml", help="another list")
    return parser.parse_args(argv)


def chosen(args: argparse.Namespace) -> list[Part]:
    """The parts of this mode; those that --only names, if it is given.

    Raises:
        SystemExit: a name of --only is that of no part.
    """
    parts = list(read_parts(args))
    wanted = args.only.split(",") if args.only else ["*"]
    for pattern in wanted:
        if not any(fnmatch(part.name, pattern) for part in parts):
            names = ", ".join(part.name for part in parts)
            print(f"--only {pattern!r} is no part; give some of {names}", file=sys.stderr)
            raise SystemExit(2)
    return [part for part in parts if any(fnmatch(part.name, pattern) for pattern in wanted)]


def read_parts(args: argparse.Namespace) -> Iterator[Part]:
    """The list's parts for this mode."""
    listed = set[str]()
    for entry in tomllib.loads(args.parts.read_text())["part"]:
        limit = entry["limit"].get(args.mode)
        for name, file in expanded(entry):
            if limit is not None and name not in listed:
                listed.add(name)
                words = filled(entry["command"], args, name, file)
                yield Part(name, words, float(limit), tuple(entry.get("needs", ())))


def expanded(entry: dict[str, Any]) -> Iterator[tuple[str, Path | None]]:
    """Names and files of a part: one, or one for each file of its patterns."""
    if "each" not in entry:
        yield entry["name"], None
        return
    left_out = entry.get("except", [])
    for each in entry["each"]:
        for file in sorted(ROOT.glob(each)):
            if not any(fnmatch(file.name, pattern) for pattern in left_out):
                yield "_".join(filter(None, (entry["name"], file.stem))), file


def filled(
    command: Sequence[str], args: argparse.Namespace, name: str, file: Path | None
) -> tuple[str, ...]:
    values = {
        "python": sys.executable,
        "root": str(ROOT),
        "work": str(args.work),
        "quick": "--quick" if args.mode == "quick" else "",
        "name": name,
        "file": str(file),
    }
    return tuple(word for raw in command if (word := raw.format(**values)))


def run_all(args: argparse.Namespace, parts: Sequence[Part]) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.work / "results" if args.bundle else args.out
    conditions = Conditions(read_conditions(), os.environ, ROOT)
    deadline = time.monotonic() + (args.seconds or BUDGET[args.mode])
    runner = Runner(folder, deadline, conditions.missing, os.environ, ROOT)
    outcomes: list[Outcome] = []
    ended = "completed"
    try:
        for part in parts:
            print(f"{part.name} ...", flush=True)
            outcomes.append(runner.run(part))
            say(outcomes[-1])
            keep(args, folder, outcomes, "running")
    except Stopped:
        ended = "stopped by a signal"
        done = len(outcomes)
        outcomes += [Outcome(part.name, "stopped", ended) for part in parts[done:]]
    keep(args, folder, outcomes, ended)
    print((args.out / "summary.md").read_text(), flush=True)
    if ended != "completed":
        return 128 + signal.SIGTERM
    return 1 if any(outcome.is_trouble for outcome in outcomes) else 0


def keep(args: argparse.Namespace, folder: Path, outcomes: Sequence[Outcome], ended: str) -> None:
    """Writes what is known by now."""
    targets = read_targets(HERE / "targets.json")
    write_summary(args.out, Run(args.mode, commit(), ended), outcomes, targets)
    if args.bundle and folder.exists():
        unfinished = args.work / "results.tar.gz"
        with tarfile.open(unfinished, "w:gz") as archive:
            archive.add(folder, "results")
        shutil.copy(unfinished, args.out / "results.tar.gz")


def say(outcome: Outcome) -> None:
    mark = MARKS.get(outcome.status, "!!")
    why = f": {outcome.why}" if outcome.why else ""
    print(f"{mark} {outcome.name} {outcome.status} in {outcome.seconds:.0f} s{why}", flush=True)


def read_conditions() -> dict[str, tuple[str, str]]:
    found = tomllib.loads((HERE / "conditions.toml").read_text())
    return {name: (entry["code"], entry["sentence"]) for name, entry in found.items()}


def stop(*_: object) -> None:
    """The first signal stops the run; more of them must not stop the summary."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
