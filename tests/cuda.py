"""What tests of the CUDA extension share."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

if shutil.which("nvcc") is None:
    pytest.importorskip("pdrt._C_cuda", reason="no nvcc here, so no CUDA extension")

from pdrt import _C_cuda

needs_a_device = pytest.mark.skipif(
    _C_cuda.unavailable() is not None, reason=str(_C_cuda.unavailable())
)
needs_no_device = pytest.mark.skipif(
    _C_cuda.unavailable() is None, reason="this machine has a device"
)


def find_cuobjdump() -> str | None:
    """On the PATH, or the one that Triton brings along."""
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is not None:
        own = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump"
        return shutil.which("cuobjdump") or shutil.which(own)
    return shutil.which("cuobjdump")


@cache
def cuobjdump(option: str) -> str:
    """What it says of the extension."""
    tool = find_cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump here; it comes with the CUDA toolkit and with triton")
    command = [tool, option, _C_cuda.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
