"""The processes of a server that runs below this one, as the system sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TITLE = "pdrt: "  # how their names begin


def server_processes() -> dict[str, Path]:
    """The folder in /proc of each, by its name without the title."""
    found = {}
    for pid in _below(os.getpid()):
        process = Path(f"/proc/{pid}")
        name = process.joinpath("cmdline").read_bytes().rstrip(b"\0").decode()
        if name.startswith(TITLE):
            found[name.removeprefix(TITLE)] = process
    return found


def cpu_seconds(process: Path) -> float:
    """User and system time."""
    # proc(5): the fields after the name, which may hold anything, in parentheses
    fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_bytes(process: Path) -> int:
    """Resident memory without shared memory, which holds weights, pages and ledger.

    Files that several processes map, such as libraries, count in equal parts (proc(5), Pss).
    """
    lines = process.joinpath("smaps_rollup").read_text().splitlines()[1:]
    sizes = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)
    }
    return (sizes["Pss_Anon"] + sizes["Pss_File"]) << 10


def _below(pid: int) -> Iterator[int]:
    """Children, and theirs."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield child
            yield from _below(child)
