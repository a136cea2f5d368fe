"""What every measurement carries with it: percentiles, the machine, the commit, the versions."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
HIDDEN = "***"  # in the place of a header's value: most of them are API keys


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


def command_line(program: str, argv: Sequence[str]) -> str:
    """What was typed, such that a shell takes it again; without the values of headers.

    program: as it is typed, such as "python -m pdrt.bench serve".
    """
    return f"{program} {shlex.join(_without_keys(argv))}".rstrip()


def hidden(header: str) -> str:
    """NAME:VALUE without the value."""
    return f"{header.partition(':')[0]}:{HIDDEN}"


def _without_keys(argv: Iterable[str]) -> Iterator[str]:
    is_header = False  # the word is the value of a --header before it
    for word in argv:
        flag, equals, value = word.partition("=")
        # argparse takes beginnings of a flag too; --hea is the shortest that is no other's.
        names_header = len(flag) >= len("--hea") and "--header".startswith(flag)
        if is_header:
            yield hidden(word)
        elif names_header and equals:
            yield f"{flag}={hidden(value)}"
        else:
            yield word
        is_header = names_header and not equals and not is_header


def version(package: str) -> str | None:
    """Of an installed package; None of one that is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def emit(
    result: dict[str, object], output: str | Path | None, details: Collection[str] = ()
) -> None:
    """Writes the result to a file, if asked, and as one JSON line, which is the last on stdout.

    details: keys whose long lists are for the file alone, which is then written in one line too.
    """
    if output:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=None if details else 2) + "\n")
    sys.stdout.flush()
    print(json.dumps({k: v for k, v in result.items() if k not in details}), flush=True)


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
