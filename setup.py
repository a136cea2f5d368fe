"""Builds the C++ extension pdrt._C, and with nvcc the CUDA extension pdrt._C_cuda.

pdrt._C holds the ledger, page memory and the CPU kernels. It needs a C++20 compiler, pybind11 and
ninja, and no torch headers, so it builds in an isolated environment within a minute and works with
any torch. pdrt._C_cuda holds device memory and the page copy; it needs nvcc 12.0 or newer to build,
and neither a driver nor a CUDA library to be imported. The build says what it makes (pip shows it
with -v), and so does BUILD of each module.

    CXX               the compiler (c++)
    CXXFLAGS          further flags
    NVCC              the CUDA compiler (nvcc, if it is on the PATH)
    NVCCFLAGS         further flags
    PDRT_CUDA         0: no pdrt._C_cuda, even if there is nvcc
    PDRT_FAILPOINTS   also build pdrt._C_failpoints: the same sources with every shared write of the
                      ledger counted, so that the tests can kill a process at its n-th write
"""

from __future__ import annotations

import os
import platform
import re
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
CUDA = ROOT / "csrc" / "cuda"
CUDA_SOURCES = sorted([*CUDA.glob("*.cpp"), *CUDA.glob("*.cu")])
CUDA_HEADERS = sorted([*CUDA.glob("*.h"), *CUDA.glob("*.cuh")])

INCLUDES = [ROOT / "csrc", pybind11.get_include(), sysconfig.get_path("include")]
# The kernels promise bits, so the compiler may not fuse or reorder what they spell out.
FLAGS = """
    -std=c++20 -O3 -g1 -fPIC -pthread -fvisibility=hidden -ffp-contract=off -Wall -Wextra
""".split()

# Machine code for Ampere and Hopper, and what the driver can compile for later ones.
ARCHITECTURES = ("sm_80", "sm_90", "compute_90")
OLDEST_NVCC = (12, 0)  # the first with C++20
NVCC_FLAGS = """
    -std=c++20 -O3 -Xcompiler=-fPIC,-fvisibility=hidden,-g1,-Wall,-Wextra
""".split()

RULES = """
rule compile
  command = {compile} -MMD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = compile $in
rule link
  command = {link} $in -o $out
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
        print(f"pdrt: building {extension.name}: {what_it_holds(extension)}", flush=True)
        subprocess.run([sys.executable, "-m", "ninja", "-C", folder], check=True)


def ninja_file(extension: Extension, target: Path) -> str:
    rules = cuda_rules if is_cuda(extension) else cpp_rules
    sources = [ROOT / source for source in extension.sources]
    lines = [rules(extension)]
    lines += [f"build {path.stem}.o: compile {escaped(path)}" for path in sources]
    objects = " ".join(f"{path.stem}.o" for path in sources)
    lines += [f"build {escaped(target)}: link {objects}", ""]
    return "\n".join(lines)


def cpp_rules(extension: Extension) -> str:
    compiler = os.environ.get("CXX", "c++")
    flags = [*FLAGS, *shared_flags(extension), *shlex.split(os.environ.get("CXXFLAGS", ""))]
    return RULES.format(
        compile=f"{compiler} {shlex.join(flags)}", link=f"{compiler} -shared -pthread"
    )


def cuda_rules(extension: Extension) -> str:
    """The runtime is linked in and hidden, so that torch's own, if another one, stays apart."""
    compiler = [find_nvcc(), "-ccbin", os.environ.get("CXX", "c++")]
    flags = [*NVCC_FLAGS, *shared_flags(extension), *code_flags()]
    flags += shlex.split(os.environ.get("NVCCFLAGS", ""))
    link = [
        *compiler,
        *code_flags(),
        "-shared",
        "-cudart=static",
        "-Xlinker=--exclude-libs=ALL",
        "-Xcompiler=-s",
    ]
    return RULES.format(compile=shlex.join([*compiler, *flags]), link=shlex.join(link))


def code_flags() -> list[str]:
    return [f"-gencode=arch={name.replace('sm', 'compute')},code={name}" for name in ARCHITECTURES]


def shared_flags(extension: Extension) -> list[str]:
    defines = [f"-D{name}={value}" for name, value in extension.define_macros]
    return [*defines, *(f"-I{path}" for path in INCLUDES)]


def escaped(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def is_cuda(extension: Extension) -> bool:
    return extension.language == "cuda"


def what_it_holds(extension: Extension) -> str:
    if is_cuda(extension):
        return f"device memory, page copy ({', '.join(ARCHITECTURES)}), by {find_nvcc()}"
    kernels = "portable, avx2, avx512" if platform.machine() == "x86_64" else "portable"
    return f"ledger, page memory, CPU kernels ({kernels})"


def extension(name: str, *macros: tuple[str, str]) -> Extension:
    return Extension(
        name,
        sources=[str(path.relative_to(ROOT)) for path in SOURCES],
        depends=[str(path.relative_to(ROOT)) for path in HEADERS],
        define_macros=[("PDRT_MODULE", name.rpartition(".")[2]), *macros],
    )


def cuda_extension() -> Extension:
    return Extension(
        "pdrt._C_cuda",
        sources=[str(path.relative_to(ROOT)) for path in CUDA_SOURCES],
        depends=[str(path.relative_to(ROOT)) for path in [*HEADERS, *CUDA_HEADERS]],
        define_macros=[("PDRT_CUDA_ARCHITECTURES", "+".join(ARCHITECTURES))],
        language="cuda",
    )


def find_nvcc() -> str | None:
    return shutil.which(os.environ.get("NVCC", "nvcc"))


def why_no_cuda() -> str | None:
    """Why the CUDA extension is not built; None where it is."""
    if os.environ.get("PDRT_CUDA") == "0":
        return "PDRT_CUDA is 0"
    nvcc = find_nvcc()
    if nvcc is None:
        return "no nvcc found on the PATH"
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", said)
    if release is None or tuple(map(int, release.groups())) < OLDEST_NVCC:
        return f"{nvcc} is not of CUDA {OLDEST_NVCC[0]}.{OLDEST_NVCC[1]} or newer"
    return None


extensions = [extension("pdrt._C")]
if os.environ.get("PDRT_FAILPOINTS"):
    # Both may be loaded in one process, so the types of one must not pass for those of the other.
    macros = [("PDRT_FAILPOINTS", "1"), ("pdrt", "pdrt_failpoints")]
    extensions.append(extension("pdrt._C_failpoints", *macros))
if reason := why_no_cuda():
    print(f"pdrt: no CUDA extension: {reason}; this build runs on the CPU", flush=True)
else:
    extensions.append(cuda_extension())

setup(ext_modules=extensions, cmdclass={"build_ext": NinjaBuild})
