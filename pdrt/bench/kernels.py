"""`python -m pdrt.bench kernels`: all kernel benches of a checkout, one page of results.

The benches are programs of their own under benchmarks/kernels/, one an op; each runs in a process
with a time limit. Targets are those for an H200 and are told beside the figures of any GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pdrt.bench.flags import bench_parser
from pdrt.bench.report import ROOT, commit
from pdrt.bench.suite.parts import Outcome, Part, Runner
from pdrt.bench.suite.summary import Run, write_summary
from pdrt.bench.suite.targets import read_targets

PACKAGE = "benchmarks.kernels"
FOLDER = ROOT / "benchmarks/kernels"
TARGETS = ROOT / "benchmarks/gpu/targets.json"
ON_CPU = "bench_cpu_"
LIMIT = 180.0  # seconds of one bench


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = bench_parser("kernels", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="where results are written")
    parser.add_argument("--only", default="", metavar="NAME", help="benches whose name has this")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repetitions")
    parser.add_argument(
        "--tiny", action="store_true", help="check the benches, with an interpreter"
    )
    return parser.parse_args(argv)


def parts(args: argparse.Namespace, folder: Path = FOLDER) -> list[Part]:
    """One for each bench of a GPU kernel that is wanted, by name."""
    flags = [flag for flag in ("--quick", "--tiny") if vars(args)[flag[2:]]]
    files = sorted(path for path in folder.glob("bench_*.py") if ON_CPU not in path.name)
    return [
        Part(path.stem, (sys.executable, "-m", f"{PACKAGE}.{path.stem}", *flags), LIMIT)
        for path in files
        if args.only in path.stem
    ]


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    wanted = parts(args)
    if not wanted:
        print(
            f"pdrt: no kernel bench for {args.only!r} in {FOLDER}; they are in a checkout of the "
            "repository, not in an installed package",
            file=sys.stderr,
        )
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LIMIT * (len(wanted) + 1)
    runner = Runner(args.out, deadline, lambda need: None, None, ROOT)
    outcomes: list[Outcome] = []
    for part in wanted:
        print(f"{part.name} ...", flush=True)
        outcomes.append(runner.run(part))
    mode = "quick" if args.quick else "full"
    write_summary(args.out, Run(mode, commit(), "completed"), outcomes, read_targets(TARGETS))
    print((args.out / "summary.md").read_text(), flush=True)
    return 1 if any(outcome.is_trouble for outcome in outcomes) else 0
