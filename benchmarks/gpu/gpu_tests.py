"""Runs the tests that a GPU makes sense of: those marked gpu, and those of the Triton kernels and
of steps made of them, which then run compiled and not in the interpreter. Those that start a server
take a part of their own: what a server takes of the card, and what a fault of the card does to it.

    python benchmarks/gpu/gpu_tests.py [--quick | --servers]

pytest's plugins may be missing, so the options that pyproject.toml gives them are left out; so may
be what a test file imports, which fails that file and no other. At its time limit this part is
sent SIGTERM, and so is pytest, for which that is Ctrl-C: what has run by then is told.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from xml.etree import ElementTree

from pdrt.bench.report import emit, provenance

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
[pytest]
addopts = -ra -q -p no:cacheprovider --continue-on-collection-errors
timeout = 60
markers =
    slow: large
    chaos: kills processes
    gpu: needs an NVIDIA GPU
"""
PYTEST = """
import signal, sys, pytest
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(pytest.main())
"""
SERVER_SECONDS = 120  # a test's own, with its fixtures: workers compile, and start again
MOST_PROCESSES = 8  # each with a context on the card
LAST = ("tests/test_device_memory.py",)  # starts many processes, each of which imports torch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the kernels' own tests")
    parser.add_argument("--servers", action="store_true", help="only those that start a server")
    args = parser.parse_args()
    servers = server_tests()
    kinds = {"servers": ("gpu and not slow", servers)}
    if not args.servers:
        marked = [file for file in files_with(r"mark\.gpu") if file not in servers]
        triton = [] if args.quick else triton_tests()
        kinds = {
            "steps": ("not gpu and not slow", step_tests()),
            "marked_gpu": ("gpu and not slow", marked),
            "triton": ("not gpu and not slow", triton),
        }
    options = {"triton": at_once(), "servers": ["-o", f"timeout={SERVER_SECONDS}"]}
    stopped, runs = Event(), {}
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())  # and wait for pytest's report
    with tempfile.TemporaryDirectory() as scratch:
        for kind, which in kinds.items():
            if not stopped.is_set():
                runs[kind] = pytest(Path(scratch), *which, options.get(kind, []))
    command = "python benchmarks/gpu/gpu_tests.py" + " --servers" * args.servers
    early = {"stopped_early": stopped.is_set()}
    emit({"bench": "gpu_tests", **provenance(command), **early, **runs}, None)
    return 1 if stopped.is_set() or any(run["bad"] for run in runs.values()) else 0


def files_with(pattern: str) -> list[str]:
    """Test files in which something matches. The others may import what this machine lacks."""
    files = (ROOT / "tests").glob("test_*.py")
    found = [str(file.relative_to(ROOT)) for file in files if re.search(pattern, file.read_text())]
    return sorted(found, key=lambda name: (name in LAST, name))


def server_tests() -> list[str]:
    """Files of tests marked gpu that start a server."""
    return [file for file in files_with(r"mark\.gpu") if file in files_with(r"pdrt\.Engine\(")]


def step_tests() -> list[str]:
    """Files of tests that run whole steps on the GPU if there is one: tokens, graphs, bits."""
    return files_with(r"from pdrt\.runner\.(gpu|triton_kernels) import")


def triton_tests() -> list[str]:
    """Test files that use an op which is written in Triton."""
    kernels = sorted((ROOT / "kernels").glob("*.py"))
    ops = "|".join(file.stem for file in kernels if "@triton.jit" in file.read_text())
    names = rf"({ops})\b"
    return files_with(rf"from pdrt\.kernels(\.{names} import| import .*\b{names})") if ops else []


def at_once() -> list[str]:
    """The option that runs tests in several processes, if there is the plugin: those of kernels
    spend their time in the compiler."""
    processes = min(MOST_PROCESSES, len(os.sched_getaffinity(0)) // 2)
    return ["-n", str(processes)] if find_spec("xdist") and processes > 1 else []


def pytest(
    scratch: Path, marks: str, files: list[str], options: Sequence[str] = ()
) -> dict[str, object]:
    """Runs pytest in a process of its own; what came of each kind, and the names of the bad."""
    if not files:
        return {"files": [], "bad": []}
    config, report = scratch / "pytest.ini", scratch / "report.xml"
    config.write_text(CONFIG)
    report.unlink(missing_ok=True)
    command = [sys.executable, "-c", PYTEST, "-c", str(config), "--rootdir", str(ROOT)]
    command += [f"--junitxml={report}", "-m", marks, *options, *files]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    return {"files": files, **outcome(report, done.returncode)}


def outcome(report: Path, code: int) -> dict[str, object]:
    """Counts of a JUnit report; `bad` names what failed, or how pytest ended."""
    if not report.exists():
        return {"bad": [f"pytest ended with {code} and wrote no report"]}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None, "a JUnit report has a suite"
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    if code not in (0, 5) and not bad:  # 5: no test was selected
        bad = [f"pytest ended with {code}"]
    return {**counts, "seconds": float(suite.get("time", 0)), "bad": bad}


if __name__ == "__main__":
    sys.exit(main())
