"""`python -m pdrt.bench NAME`: the measurements that the README quotes."""

from __future__ import annotations

import sys

from pdrt.bench.burst import main as burst

BENCHES = {"burst": burst}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in BENCHES:
        print(f"usage: python -m pdrt.bench {{{','.join(BENCHES)}}} ...", file=sys.stderr)
        return 2
    return BENCHES[argv[0]](argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
