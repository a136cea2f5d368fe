"""Tries whether two processes can share memory of a device, bit for bit, in both directions.

    python -m pdrt.doctor.sharing DEVICE EXPORT              makes a slab and starts the importer
    python -m pdrt.doctor.sharing DEVICE EXPORT attach TOKEN     is the importer

TOKEN is an inherited descriptor for "vmm", a handle in hex for "ipc". Prints one sentence.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch
from torch.utils.dlpack import from_dlpack

from pdrt._C_cuda import DeviceMemory

NUM_BYTES = 4 << 20
BACK = 0x5A  # what the importer leaves in every byte


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("device", type=int)
    parser.add_argument("export", choices=["vmm", "ipc"])
    parser.add_argument("step", nargs="?", choices=["attach"])
    parser.add_argument("token", nargs="?", default="")
    arguments = parser.parse_args()
    if arguments.step == "attach":
        return attach(arguments.device, arguments.export, arguments.token)
    return make(arguments.device, arguments.export)


def make(device: int, export: str) -> int:
    memory = DeviceMemory.create(device, NUM_BYTES, export)
    slab = from_dlpack(memory)
    slab.copy_(pattern(slab))
    torch.cuda.synchronize(device)
    token, fds = (str(memory.fd), [memory.fd]) if export == "vmm" else (memory.ipc_handle.hex(), [])
    command = [sys.executable, "-m", "pdrt.doctor.sharing", str(device), export, "attach", token]
    if (code := subprocess.run(command, pass_fds=fds, check=False).returncode) != 0:
        return code
    if not bool((slab == BACK).all()):
        print("what the other process wrote is not seen here", file=sys.stderr)
        return 1
    print("two processes share memory, bit for bit, in both directions")
    return 0


def attach(device: int, export: str, token: str) -> int:
    if export == "vmm":
        memory = DeviceMemory.attach_fd(device, int(token), NUM_BYTES)
    else:
        memory = DeviceMemory.attach_ipc(device, bytes.fromhex(token), NUM_BYTES)
    slab = from_dlpack(memory)
    if not torch.equal(slab, pattern(slab)):
        print("the other process sees different bytes", file=sys.stderr)
        return 1
    slab.fill_(BACK)
    torch.cuda.synchronize(device)
    return 0


def pattern(slab: torch.Tensor) -> torch.Tensor:
    """[len(slab)] uint8, with a period that no page size is a multiple of."""
    return (torch.arange(len(slab), device=slab.device) % 251).to(torch.uint8)


if __name__ == "__main__":
    sys.exit(main())
