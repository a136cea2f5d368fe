"""The part of the GPU script that runs pytest: what ran, what failed, in a machine's words."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.processes import eventually

FILE = Path(__file__).parents[1] / "benchmarks/gpu/gpu_tests.py"

TESTS = """
import pytest

def test_plain(): pass

@pytest.mark.gpu
def test_good(): pass

@pytest.mark.gpu
def test_bad(): assert 1 == 2

@pytest.mark.gpu
def test_absent(): pytest.skip("needs an NVIDIA GPU")
"""

SLOW = """
import pathlib, time

@pytest.mark.gpu
def test_slow():
    pathlib.Path("begun").touch()
    time.sleep(60)
"""
RUN = """
import pathlib, sys
sys.path.insert(0, sys.argv.pop(1))
import gpu_tests
gpu_tests.ROOT = pathlib.Path.cwd()
sys.exit(gpu_tests.main())
"""


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_tests_part", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "tests").mkdir()
    (tmp_path / "kernels").mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def test_counts_and_the_names_of_what_failed(part: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "tests/test_it.py").write_text(TESTS)
    (tmp_path / "tests/test_lacks.py").write_text("import no_such_package  # mark.gpu")
    (tmp_path / "tests/test_other.py").write_text("import no_such_package")
    files = part.files_with(r"mark\.gpu")
    assert files == ["tests/test_it.py", "tests/test_lacks.py"]
    found = part.pytest(tmp_path, "gpu", files)
    assert (found["failures"], found["errors"], found["skipped"]) == (1, 1, 1)
    assert "tests.test_it::test_bad" in found["bad"]
    assert len(found["bad"]) == 2


def test_tests_that_start_servers_are_a_part_of_their_own(part: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "tests/test_server.py").write_text("pdrt.Engine()  # mark.gpu")
    (tmp_path / "tests/test_op.py").write_text("# mark.gpu")
    (tmp_path / "tests/test_cpu_server.py").write_text("pdrt.Engine()")
    assert part.server_tests() == ["tests/test_server.py"]


def test_files_of_triton_kernels_are_found_by_what_they_import(
    part: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "kernels/gelu.py").write_text("@triton.jit\ndef kernel(): ...")
    (tmp_path / "kernels/cpu.py").write_text("def gelu(): ...")
    (tmp_path / "tests/test_gelu.py").write_text("from pdrt.kernels.gelu import gelu")
    (tmp_path / "tests/test_cpu.py").write_text("from pdrt.kernels.cpu import gelu")
    (tmp_path / "tests/test_module.py").write_text("from pdrt.kernels import cpu, gelu, reference")
    (tmp_path / "tests/test_other.py").write_text("from pdrt.kernels import cpu")
    assert part.triton_tests() == ["tests/test_gelu.py", "tests/test_module.py"]


def test_steps_on_a_gpu_are_found_by_what_they_import(part: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "tests/test_step.py").write_text("from pdrt.runner.gpu" + " import decode")
    (tmp_path / "tests/test_cpu.py").write_text("from pdrt.runner.executor import fed")
    assert part.step_tests() == ["tests/test_step.py"]


def test_the_steps_of_this_project_are_among_them(part: ModuleType) -> None:
    part.ROOT = FILE.parents[2]
    assert "tests/test_gpu_runner.py" in part.step_tests()


def test_without_triton_kernels_there_is_nothing_to_run(part: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "tests/test_cpu.py").write_text("from pdrt.kernels import cpu")
    assert part.triton_tests() == []


def test_a_pytest_that_dies_is_bad(part: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "tests/test_dies.py").write_text("import os; os._exit(9)")
    found = part.pytest(tmp_path, "gpu", ["tests/test_dies.py"])
    assert found["bad"] == ["pytest ended with 9 and wrote no report"]
    assert part.pytest(tmp_path, "gpu", []) == {"files": [], "bad": []}


@pytest.mark.usefixtures("part")
def test_a_time_limit_costs_the_tests_that_are_left_and_not_the_report(tmp_path: Path) -> None:
    (tmp_path / "tests/test_it.py").write_text(TESTS + SLOW)
    command = [sys.executable, "-c", RUN, str(FILE.parent)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert eventually((tmp_path / "begun").exists, 30)
        os.killpg(process.pid, signal.SIGTERM)
        printed, _ = process.communicate(timeout=20)
    found = json.loads(printed.splitlines()[-1])
    assert process.returncode == 1 and found["stopped_early"]
    assert found["marked_gpu"]["bad"] == ["tests.test_it::test_bad"]
    assert "triton" not in found  # not begun
