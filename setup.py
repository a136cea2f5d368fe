"""Builds pdrt._C, the C++ extension: ledger, page memory and the CPU kernels.

It needs a C++20 compiler, pybind11 and ninja, and no torch headers, so it builds in an isolated
environment within a minute and works with any torch. The build says what the extension holds
(pip shows it with -v), and so does pdrt._C.BUILD.

    CXX               the compiler (c++)
    CXXFLAGS          further flags
    PDRT_FAILPOINTS   also build pdrt._C_failpoints: the same sources with every shared write of the
                      ledger counted, so that the tests can kill a process at its n-th write
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCES = sorted((ROOT / "csrc").glob("*.cpp"))
HEADERS = sorted((ROOT / "csrc").glob("*.h"))

INCLUDES = [ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include")]
# The kernels promise bits, so the compiler may not fuse or reorder what they spell out.
FLAGS = """
    -std=c++20 -O3 -g1 -fPIC -pthread -fvisibility=hidden -ffp-contract=off -Wall -Wextra
""".split()

RULES = """
rule compile
  command = {compiler} {flags} -MMD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = compile $in
rule link
  command = {compiler} -shared -pthread $in -o $out
  description = link $out
"""


class NinjaBuild(build_ext):
    """Compiles each extension with ninja, which knows what changed, headers and flags included."""

    def build_extension(self, extension: Extension) -> None:
        # Not in build_temp: editable installations get a new one each time, and would start afresh.
        folder = ROOT / "build" / sysconfig.get_platform() / extension.name
        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(ninja_file(extension, target))
        say_what_is_built(extension)
        subprocess.run([sys.executable, "-m", "ninja", "-C", folder], check=True)


def ninja_file(extension: Extension, target: Path) -> str:
    defines = [f"-D{name}={value}" for name, value in extension.define_macros]
    includes = [f"-I{path}" for path in INCLUDES]
    flags = [*FLAGS, *defines, *includes, *shlex.split(os.environ.get("CXXFLAGS", ""))]
    compiler = os.environ.get("CXX", "c++")
    lines = [RULES.format(compiler=compiler, flags=shlex.join(flags))]
    lines += [f"build {path.stem}.o: compile {escaped(path)}" for path in SOURCES]
    objects = " ".join(f"{path.stem}.o" for path in SOURCES)
    lines += [f"build {escaped(target)}: link {objects}", ""]
    return "\n".join(lines)


def escaped(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def say_what_is_built(extension: Extension) -> None:
    kernels = "portable, avx512" if platform.machine() == "x86_64" else "portable"
    nvcc = shutil.which("nvcc")
    cuda = f"nvcc found at {nvcc}" if nvcc else "no nvcc found"
    print(f"pdrt: building {extension.name}: ledger, page memory, CPU kernels ({kernels})")
    print(f"pdrt: {cuda}; this version has no CUDA sources", flush=True)


def extension(name: str, *macros: tuple[str, str]) -> Extension:
    return Extension(
        name,
        sources=[str(path.relative_to(ROOT)) for path in SOURCES],
        depends=[str(path.relative_to(ROOT)) for path in HEADERS],
        define_macros=[("PDRT_MODULE", name.rpartition(".")[2]), *macros],
    )


extensions = [extension("pdrt._C")]
if os.environ.get("PDRT_FAILPOINTS"):
    # Both may be loaded in one process, so the types of one must not pass for those of the other.
    macros = [("PDRT_FAILPOINTS", "1"), ("pdrt", "pdrt_failpoints")]
    extensions.append(extension("pdrt._C_failpoints", *macros))

setup(ext_modules=extensions, cmdclass={"build_ext": NinjaBuild})
