"""Makes the device fail under a worker of a real server, when a signal says so.

A folder with FAULT_HOOK as its sitecustomize.py, on PYTHONPATH, is read by every Python that the
server starts; a worker that gets SIGUSR1 fails in its next step. On a GPU the step then really
writes to an address that is nobody's; the CPU raises what torch raises there.
"""

from __future__ import annotations

from pathlib import Path

FAULT_HOOK = """
import signal, sys

def fail(*_):
    from pdrt.runner.executor import CpuExecutor

    def forward(executor, batch):
        raise RuntimeError(
            "CUDA error: an illegal memory access was encountered\\n"
            "CUDA kernel errors might be asynchronously reported at some other API call"
        )

    CpuExecutor.forward = forward
    if "triton" in sys.modules:
        fail_on_the_gpu()

def fail_on_the_gpu():
    import wild_kernel
    from pdrt.runner.gpu import GpuExecutor

    forward = GpuExecutor.forward

    def failing(executor, batch):
        wild_kernel.write_nowhere()
        return forward(executor, batch)

    GpuExecutor.forward = failing

if "pdrt.worker.main" in sys.orig_argv:
    signal.signal(signal.SIGUSR1, fail)
"""

WILD_KERNEL = """
import torch
import triton
import triton.language as tl

@triton.jit
def kernel(at):
    tl.store(at + tl.program_id(0).to(tl.int64) + (1 << 44), 1)

def write_nowhere():
    kernel[(1,)](torch.zeros(1, dtype=torch.int32, device="cuda"))
"""


def write_fault_hook(folder: Path) -> Path:
    """Into a folder for PYTHONPATH; returns it."""
    (folder / "sitecustomize.py").write_text(FAULT_HOOK)
    (folder / "wild_kernel.py").write_text(WILD_KERNEL)
    return folder
