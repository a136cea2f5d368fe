"""The ledger without Python, under the compiler's sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "holder.cpp",
    "holder_boundary.cpp",
    "ledger.cpp",
    "ledger_audit.cpp",
    "ledger_derived.cpp",
    "ledger_memory.cpp",
    "ledger_state.cpp",
    "prefix_index.cpp",
    "robust_lock.cpp",
)
SECONDS = "10"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_hammering_threads_make_no_sanitizer_speak(tmp_path: Path, sanitizer: str) -> None:
    program = tmp_path / "ledger_hammer"
    sources = [ROOT / "tests/cpp/ledger_hammer.cpp", *(ROOT / "csrc" / name for name in SOURCES)]
    flags = ["-std=c++20", "-O1", "-g", "-pthread", "-Wall", "-Wextra", f"-fsanitize={sanitizer}"]
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, *flags, "-fno-sanitize-recover=all", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, *sources, "-o", program], check=True)
    run = subprocess.run([program, SECONDS], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stderr == ""
