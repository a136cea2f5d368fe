"""A driver that stands in for NVIDIA's, for tests of what pdrt asks of one.

tests/cpp/stand_in_driver.c keeps "device" memory in memory files of the host and writes down each
call. Each script is a process, as a driver is loaded once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "cpp/stand_in_driver.c"


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-in, to be searched first for libraries."""
    nvcc, compiler = shutil.which("nvcc"), shutil.which("cc")
    if nvcc is None or compiler is None:
        pytest.skip("needs nvcc, for the driver's header, and a C compiler")
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    if not (toolkit / "include/cuda.h").exists():
        toolkit = Path(nvcc).resolve().parent.parent
    folder = tmp_path_factory.mktemp("driver")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    command = [compiler, *flags, f"-I{toolkit}/include", str(SOURCE), "-o"]
    subprocess.run([*command, str(folder / "libcuda.so.1")], check=True)
    return folder


class DriverRun:
    """What a script printed, and the calls that it made: "name" or "name code" where it failed."""

    def __init__(self, driver: Path, trace: Path, script: str, **environment: str) -> None:
        settings = {"LD_LIBRARY_PATH": str(driver), "TRACE": str(trace), **environment}
        done = subprocess.run(
            [sys.executable, "-c", "from pdrt import _C_cuda as c\n" + script],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.printed = done.stdout.strip()
        lines = trace.read_text().splitlines() if trace.exists() else []
        self.calls = [line.removesuffix(" 0").replace("_v2", "") for line in lines]


StandIn = Callable[..., DriverRun]


@pytest.fixture
def stand_in(driver: Path, tmp_path: Path) -> StandIn:
    """Runs a script, in which `c` is pdrt._C_cuda, on the stand-in."""
    return lambda script, **environment: DriverRun(
        driver, tmp_path / "trace", script, **environment
    )
