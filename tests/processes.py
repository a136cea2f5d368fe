"""What tests ask the kernel of pdrt's processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def title(pid: int) -> str:
    """As `ps` shows it; empty for a zombie or a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """All descendants of a process, nearest first."""
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return found
    for task in tasks:
        try:
            direct = [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *children(child)]
    return found


def is_running(pid: int) -> bool:
    """Exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def eventually(condition: Callable[[], bool], timeout: float = 5.0) -> bool:
    """Whether it becomes true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def shared_memory_files() -> set[str]:
    return set(os.listdir("/dev/shm"))


def unix_sockets() -> set[str]:
    """Paths of all named AF_UNIX sockets of the machine."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {parts[7] for parts in map(str.split, lines) if len(parts) > 7}


def mappings(pid: int) -> dict[str, tuple[str, str]]:
    """What a process has mapped: name of the file -> (permissions, inode)."""
    found = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        _, permissions, _, _, inode, *name = line.split(maxsplit=5)
        if name:
            found[name[0].removesuffix(" (deleted)")] = (permissions, inode)
    return found
