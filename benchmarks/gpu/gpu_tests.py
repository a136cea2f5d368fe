"""Runs the tests that a GPU makes sense of: those marked gpu, and those of the Triton kernels,
which then run compiled and not in the interpreter.

    python benchmarks/gpu/gpu_tests.py [--quick]

pytest's plugins may be missing, so the options that pyproject.toml gives them are left out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from pdrt.bench.report import emit, provenance

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
[pytest]
addopts = -ra -q -p no:cacheprovider
markers =
    slow: large
    chaos: kills processes
    gpu: needs an NVIDIA GPU
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the tests marked gpu")
    args = parser.parse_args()
    files = [] if args.quick else triton_tests()
    with tempfile.TemporaryDirectory() as scratch:
        marked = pytest(Path(scratch), "gpu", ["-m", "gpu and not slow", "tests"])
        kernels = pytest(Path(scratch), "kernels", ["-m", "not slow", *files]) if files else {}
    result: dict[str, object] = {
        "bench": "gpu_tests",
        **provenance("python benchmarks/gpu/gpu_tests.py"),
        "marked_gpu": marked,
        "triton": kernels,
    }
    emit(result, None)
    return 1 if any(each.get("bad") for each in (marked, kernels)) else 0


def triton_tests() -> list[str]:
    """Test files that import an op file which imports triton."""
    ops = [
        file.stem for file in (ROOT / "kernels").glob("*.py") if "@triton.jit" in file.read_text()
    ]
    wanted = [f"pdrt.kernels.{op} import" for op in ops]
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(file) for file in files if any(line in file.read_text() for line in wanted)]


def pytest(scratch: Path, name: str, arguments: list[str]) -> dict[str, object]:
    """Runs pytest in a process of its own; what came of each kind, and the names of the bad."""
    config, report = scratch / f"{name}.ini", scratch / f"{name}.xml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "pytest", "-c", str(config), "--rootdir", str(ROOT)]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [*command, f"--junitxml={report}", *arguments], cwd=ROOT, env=environment, check=False
    )
    return outcome(report, done.returncode)


def outcome(report: Path, code: int) -> dict[str, object]:
    """Counts of a JUnit report; `bad` names what failed, or says that nothing ran."""
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
