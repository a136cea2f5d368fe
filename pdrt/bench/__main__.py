"""`python -m pdrt.bench NAME`: the measurements that the README and docs quote."""

from __future__ import annotations

import sys
from importlib import import_module

# Imported when asked for: kernels are measured where the server's packages are missing.
BENCHES = {
    "burst": "pdrt.bench.burst",
    "frontier": "pdrt.bench.frontier",
    "kernels": "pdrt.bench.kernels",
    "serve": "pdrt.bench.serve",
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in BENCHES:
        print(f"usage: python -m pdrt.bench {{{','.join(BENCHES)}}} ...", file=sys.stderr)
        return 2
    bench = import_module(BENCHES[argv[0]])
    code: int = bench.main(argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
