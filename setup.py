"""Builds pdrt._C, the C++ extension: ledger, page memory and the CPU kernels.

It needs a C++20 compiler, pybind11 and ninja, and no torch headers, so it builds in an isolated
environment in seconds and works with any torch. The build prints what the extension holds.

PDRT_FAILPOINTS=1 also builds pdrt._C_failpoints, the same sources with every shared write of the
ledger counted, so that the tests can kill a process at its n-th write.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext, naive_recompile
from setuptools import setup

ROOT = Path(__file__).parent
SOURCES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").glob("*.cpp"))
FLAGS = ["-O3", "-g1", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]

ParallelCompile(
    "NPY_NUM_BUILD_JOBS", default=os.cpu_count() or 1, needs_recompile=naive_recompile
).install()


def extension(name: str, *macros: tuple[str, str | None]) -> Pybind11Extension:
    module = name.rpartition(".")[2]
    return Pybind11Extension(
        name,
        SOURCES,
        include_dirs=["csrc"],
        define_macros=[("PDRT_MODULE", module), *macros],
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread"],
        cxx_std=20,
    )


extensions = [extension("pdrt._C")]
if os.environ.get("PDRT_FAILPOINTS"):
    extensions.append(extension("pdrt._C_failpoints", ("PDRT_FAILPOINTS", "1")))

nvcc = shutil.which("nvcc")
print(f"pdrt: building {', '.join(e.name for e in extensions)}: ledger, page memory, CPU kernels")
print(f"pdrt: nvcc {'found at ' + nvcc if nvcc else 'not found'}; this version has no CUDA sources")

setup(ext_modules=extensions, cmdclass={"build_ext": build_ext})
