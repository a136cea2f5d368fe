"""The ledger without Python: a C++ program whose threads hammer it, also under sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "holder.cpp",
    "holder_boundary.cpp",
    "holder_scores.cpp",
    "ledger.cpp",
    "ledger_audit.cpp",
    "ledger_derived.cpp",
    "ledger_memory.cpp",
    "ledger_partial_hit.cpp",
    "ledger_state.cpp",
    "prefix_index.cpp",
    "robust_lock.cpp",
)
SANITIZERS = ("address,undefined", "thread")


def hammer(folder: Path, seconds: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """Compiles tests/cpp/ledger_hammer.cpp with the ledger's sources, and runs it."""
    program = folder / "ledger_hammer"
    sources = [ROOT / "tests/cpp/ledger_hammer.cpp", *(ROOT / "csrc" / name for name in SOURCES)]
    common = ["-std=c++20", "-O1", "-g", "-pthread", "-Wall", "-Wextra", f"-I{ROOT / 'csrc'}"]
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, *common, *flags, *sources, "-o", program], check=True)
    return subprocess.run([program, str(seconds)], capture_output=True, text=True, timeout=300)


def test_hammering_threads_find_the_ledger_right(tmp_path: Path) -> None:
    run = hammer(tmp_path, 2)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_hammering_threads_make_no_sanitizer_speak(tmp_path: Path, sanitizer: str) -> None:
    run = hammer(tmp_path, 10, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stderr == ""
