"""The GPU: driver, toolkit, devices, sharing of memory between processes, MPS."""

from __future__ import annotations

import ctypes.util
import re
import shutil
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from pdrt import mps
from pdrt.doctor.finding import Finding, examined, missing, note, ok

if TYPE_CHECKING:
    from pdrt._C_cuda import DeviceReport

GIB = 1 << 30
OLDEST_CAPABILITY = (8, 0)
SHARING_SECONDS = 120.0


def examine() -> list[Finding]:
    """All findings about GPUs. Without the extension or a driver, those that need neither."""
    extension, finding = usable_extension()
    findings = [finding, *examined("nvcc", lambda: [toolkit()]), runtime_library()]
    if extension is not None:
        findings += examined("devices", lambda: devices(extension))
    return [*findings, *examined("mps", lambda: [private_mps(extension is not None)])]


def usable_extension() -> tuple[ModuleType | None, Finding]:
    """The CUDA extension if this process can use a device, and a line about the driver."""
    try:
        from pdrt import _C_cuda
    except ImportError:
        return None, note("driver", "not asked: pdrt._C_cuda is not built")
    reason = _C_cuda.unavailable()
    if reason is not None:
        return None, missing("driver", reason, "pdrt runs on the CPU meanwhile")
    major, minor = _C_cuda.driver_version()
    return _C_cuda, ok("driver", f"serves CUDA {major}.{minor}")


def toolkit() -> Finding:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return note("nvcc", "not on the PATH", "only needed to build pdrt._C_cuda")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release (\S+),", said)
    return ok("nvcc", f"{release[1] if release else 'of an unknown version'} at {nvcc}")


def runtime_library() -> Finding:
    """pdrt has its own inside; torch brings one as well."""
    found = ctypes.util.find_library("cudart")
    if found is None:
        return note("libcudart", "not in the loader's path; pdrt and torch bring their own")
    return ok("libcudart", found)


def devices(extension: ModuleType) -> list[Finding]:
    findings = []
    for number in range(extension.num_devices()):
        report = extension.device_report(number)
        findings += [device(report), mode(report), *sharing(report)]
    return findings


def device(report: DeviceReport) -> Finding:
    major, minor = report.compute_capability
    subject = f"device {report.device}"
    found = (
        f"{report.name}, compute capability {major}.{minor}, {report.num_sms} SMs, "
        f"{report.l2_bytes >> 20} MiB L2, {report.memory_free / GIB:.1f} of "
        f"{report.memory_total / GIB:.1f} GiB free"
    )
    if (major, minor) < OLDEST_CAPABILITY:
        return missing(subject, found, "pdrt's kernels need compute capability 8.0 or later")
    return ok(subject, found)


def mode(report: DeviceReport) -> Finding:
    subject = f"device {report.device} mode"
    if report.compute_mode == "default":
        return ok(subject, "default: several processes may use it")
    advice = "pdrt runs two processes on a device: nvidia-smi -c DEFAULT, by its administrator"
    return missing(subject, report.compute_mode, advice)


# -- sharing, really tried ------------------------------------------------------------------------


def sharing(report: DeviceReport) -> list[Finding]:
    ways = {"vmm": report.supports_fd_export, "ipc": report.supports_ipc_export}
    return [
        share(report.device, export) if supported else unsupported(report.device, export)
        for export, supported in ways.items()
    ]


def unsupported(number: int, export: str) -> Finding:
    other = {"vmm": "ipc", "ipc": "vmm"}[export]
    return missing(
        f"device {number} {export}", "the driver has no such export", f"--memory-export {other}"
    )


def share(number: int, export: str) -> Finding:
    """Two processes of their own, so that this one needs no context and survives their faults."""
    subject = f"device {number} {export}"
    command = [sys.executable, "-m", "pdrt.doctor.sharing", str(number), export]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SHARING_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        said = f"two processes were not done sharing after {SHARING_SECONDS:g} s"
    else:
        if done.returncode == 0:
            return ok(subject, done.stdout.strip())
        said = (done.stderr.strip() or f"ended with code {done.returncode}").splitlines()[-1]
    advice = {
        "vmm": "--memory-export ipc may work instead",
        "ipc": "containers need a common PID and IPC namespace for it; vmm does not",
    }
    return missing(subject, said, advice[export])


# -- MPS ------------------------------------------------------------------------------------------


def private_mps(has_device: bool) -> Finding:
    binary = mps.find_binary()
    if binary is None:
        return note(
            "mps",
            f"no {mps.BINARY} on the PATH",
            "it comes with the driver; without it processes take turns on a device",
        )
    if not has_device:
        return note("mps", f"{binary}, not tried: no device can be used")
    try:
        with mps.PrivateMps() as daemon:
            daemon.try_client(0)
        return ok("mps", f"{binary}; a private daemon starts, serves a client and ends")
    except mps.MpsError as error:
        return missing("mps", str(error), "--mps off; processes take turns on a device")
