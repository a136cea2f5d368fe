"""What this machine can give: cores, memory, instructions. Read once at start-up."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")

# Files of a memory cgroup: limit and usage; the key of reclaimable file cache in memory.stat.
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def num_cores() -> int:
    """How many cores this process may run on."""
    return len(cores())


def available_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Bytes that can be taken without swapping: the kernel's estimate or a cgroup's rest."""
    rests = [_mem_available(proc / "meminfo")]
    for group in _memory_groups(proc, cgroup):
        for names in (_VERSION_2, _VERSION_1):
            rest = _rest(group, *names)
            if rest is not None:
                rests.append(rest)
    return max(0, min(rests))


def raise_open_files_limit() -> None:
    """To what the system allows: each connection takes one, and the usual 1024 are soon gone."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # some systems forbid what they call the limit


def has_bfloat16(proc: Path = PROC) -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; without it float32 is faster."""
    flags = (proc / "cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _mem_available(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError(f"{meminfo} has no line MemAvailable")


def _memory_groups(proc: Path, cgroup: Path) -> Iterator[Path]:
    """Folders of the memory cgroups that hold us, of either version, up to the root."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0" or "memory" in controllers.split(","):
            root = cgroup if hierarchy == "0" else cgroup / "memory"
            own = root / path.lstrip("/")
            yield from (group for group in (own, *own.parents) if group.is_relative_to(root))


def _rest(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """Limit - usage, file cache counted as free; None where the group sets no limit."""
    try:
        most = int((group / limit).read_text())  # "max" is no number: no limit
        used = int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return most - used + int(stat.get(reclaimable, 0))
    except (OSError, ValueError):
        return None
