"""What every configuration of every Triton kernel compiles to, without a GPU.

    python -m benchmarks.kernels.compile_table [--save benchmarks/results/compile]

Registers are those of a thread; "CTAs" is how many fit on a multiprocessor. --save keeps one JSON
file an architecture.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import triton

from tests.offline import Compiled, compile_all

ARCHS = (80, 90)


def line(row: Compiled) -> str:
    shapes = " ".join(row.tensor_core_shapes)
    return (
        f"sm_{row.arch}  {row.name:52} {row.num_warps:5} {row.registers:9} {row.stack:5} "
        f"{row.shared:7} {row.ctas_per_sm:4}  {shapes}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--save", type=Path, help="write sm_80.json and sm_90.json to this folder")
    options = parser.parse_args()
    print(f"arch   {'kernel':52} warps registers stack  shared CTAs  tensor cores")
    for arch in ARCHS:
        rows = []
        for row in compile_all(arch):
            rows.append(row)
            print(line(row), flush=True)
        if options.save:
            kept = [asdict(row) | {"ctas_per_sm": row.ctas_per_sm} for row in rows]
            result = {"bench": "compile", "triton": triton.__version__, "rows": kept}
            options.save.mkdir(parents=True, exist_ok=True)
            (options.save / f"sm_{arch}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
