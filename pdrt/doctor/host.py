"""The host: its CPU, memory, limits and Python packages."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import shutil
from pathlib import Path

from pdrt import machine
from pdrt.doctor.finding import Finding, missing, note, ok

GIB = 1 << 30
PROC = Path("/proc")
FEW_FILES = 4096  # descriptors: one for each open stream, and some
MUCH_PINNED = 4 * GIB  # locked memory, for offload of pages to the host

# The CPU flags that kernels of the host make use of.
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = ("torch", "triton", "numpy")


def examine() -> list[Finding]:
    """All findings about the host."""
    return [python(), *packages(), *extensions(), cpu(), memory(), open_files(), locked_memory()]


def python() -> Finding:
    return ok("python", f"{platform.python_version()} on {platform.platform(terse=True)}")


def packages() -> list[Finding]:
    return [package(name) for name in PACKAGES]


def package(name: str) -> Finding:
    """Looked up, not imported, as importing torch takes seconds."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name == "triton":
            return note(name, "not installed", "the GPU kernels need it, the CPU does not")
        return missing(name, "not installed", f"pip install {name}")
    if name == "torch" and version.endswith("+cpu"):
        return note(name, version, "a build for the CPU; a GPU needs one with CUDA")
    return ok(name, version)


def extensions() -> list[Finding]:
    """The two modules in C++ and what each holds."""
    return [cpu_extension(), cuda_extension()]


def cpu_extension() -> Finding:
    try:
        from pdrt import _C
    except ImportError as error:
        return missing("pdrt._C", str(error), "build pdrt: make extension, or pip install -e .")
    return ok("pdrt._C", f"{_C.BUILD}, kernels in use: {_C.cpu_isa()}")


def cuda_extension() -> Finding:
    try:
        from pdrt import _C_cuda
    except ImportError as error:
        nvcc = shutil.which("nvcc")
        advice = (
            f"build pdrt again with {nvcc}" if nvcc else "install nvcc 12.0 or newer, build again"
        )
        return note("pdrt._C_cuda", f"not built ({error})", f"for a GPU: {advice}")
    return ok("pdrt._C_cuda", _C_cuda.BUILD)


def cpu() -> Finding:
    flags = cpu_flags()
    has = [name for name in CPU_FEATURES if name in flags]
    features = ", ".join(has) or f"none of {', '.join(CPU_FEATURES)}"
    return ok("cpu", f"{machine.num_cores()} cores for this process; {features}")


def cpu_flags(proc: Path = PROC) -> set[str]:
    for line in (proc / "cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def memory() -> Finding:
    """What can be taken now; a cgroup's limit is counted in."""
    available = machine.available_memory()
    found = f"{available / GIB:.1f} GiB available to this process"
    if available < GIB:
        return missing("memory", found, "free some, or raise the container's memory limit")
    return ok("memory", found)


def open_files() -> Finding:
    """The server raises its soft limit to the hard one; a program with an Engine has its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{shown(hard)} open files for a server, {shown(soft)} for a program with an Engine"
    if resource.RLIM_INFINITY != hard < FEW_FILES:
        return missing("nofile", found, f"ulimit -Hn {FEW_FILES}, for many streams at once")
    return ok("nofile", found)


def locked_memory() -> Finding:
    """Pinning through CUDA is not bound by it everywhere, so too little is a note."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return ok("memlock", "unlimited")
    found = f"{soft / GIB:.2f} GiB may be locked"
    if soft < MUCH_PINNED:
        return note("memlock", found, "ulimit -l unlimited, if pinning memory of the host fails")
    return ok("memlock", found)


def shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)
