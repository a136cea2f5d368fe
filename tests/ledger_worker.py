"""A worker process for test_ledger_hammer.py: drives what it may until its stdin is closed.

Arguments: descriptor of the ledger, descriptor of the KV pool, instance.
"""

from __future__ import annotations

import select
import sys

from pdrt import _C
from tests.ledger_driver import Worker, map_pool


def main(ledger_fd: int, pool_fd: int, instance: int) -> None:
    ledger = _C.Ledger.attach(ledger_fd)
    worker = Worker(_C, ledger, instance, map_pool(ledger, pool_fd))
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        worker.turn()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
