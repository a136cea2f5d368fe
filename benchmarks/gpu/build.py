"""Builds the extensions in place, as setup.py does, and says what they hold.

python benchmarks/gpu/build.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from pdrt.bench.report import command_line, emit, provenance

ROOT = Path(__file__).resolve().parents[2]
NEEDS = ("setuptools", "pybind11", "ninja")
HOLDS = "import importlib, sys; print(importlib.import_module(sys.argv[1]).BUILD)"


def main() -> int:
    lacking = [name for name in NEEDS if find_spec(name) is None]
    if lacking:
        names = ", ".join(lacking)
        print(f"build: missing {names}; put their wheels into a folder and name it in PDRT_WHEELS")
    start = time.monotonic()
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    code = 1 if lacking else subprocess.run(build, cwd=ROOT, check=False).returncode
    modules = {name: holds(name) for name in ("pdrt._C", "pdrt._C_cuda")}
    result: dict[str, object] = {
        "bench": "build",
        **provenance(command_line("python", build[1:])),
        "lacking": lacking,
        "seconds": round(time.monotonic() - start, 1),
        "modules": modules,
    }
    emit(result, None)
    return code


def holds(module: str) -> str:
    """What a built module says it holds, or why it cannot be imported."""
    command = [sys.executable, "-c", HOLDS, module]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())
