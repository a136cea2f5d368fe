"""What every measurement carries with it: percentiles, the machine, the commit, the versions."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and max in milliseconds, and how many values there were (at least one)."""
    ms = np.asarray(seconds) * 1000.0
    p50, p90, p99 = np.percentile(ms, [50, 90, 99])
    named = {"p50": p50, "p90": p90, "p99": p99, "max": ms.max()}
    return {name: round(float(value), 3) for name, value in named.items()} | {"count": len(ms)}


def provenance(command: str) -> dict[str, object]:
    """Where figures come from, so that they can be had again."""
    return {
        "command": command,
        "commit": commit(),
        "machine": {"cpu": _cpu_model(), "cores": len(os.sched_getaffinity(0))},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "triton")},
        },
    }


def version(package: str) -> str | None:
    """Of an installed package; None of one that is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def emit(result: dict[str, object], output: str | None) -> None:
    """Writes the result to a file, if asked, and as one JSON line, which is the last on stdout."""
    if output:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.flush()
    print(json.dumps(result), flush=True)


def commit() -> str | None:
    """The checkout's commit, "+changes" where files differ from it; None outside of a checkout."""
    if shutil.which("git") is None:
        return None
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--"], check=False).returncode
    return head.stdout.strip() + ("+changes" if changed else "")


def driver_version() -> str | None:
    """The driver's version from the kernel's module, which needs no tool."""
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", path.read_text()) if path.exists() else None
    return found[0] if found else None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
