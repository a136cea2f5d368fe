"""A process that makes or maps shared memory and works on it. Started by a probe: see Child.

    memory_child.py SOCKET KIT DEVICE

A kit is a kind of memory: "memfd" (the host's, for tests of the choreography), "vmm" or "ipc".
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from choreography import Descriptor, serve

WORD = 8  # bytes of an int64


def pattern(num_words: int, seed: int, device: str) -> torch.Tensor:
    """[num_words] int64 on the device, each word different and none of them small."""
    index = torch.arange(num_words, dtype=torch.int64, device=device)
    return (index + seed) * 6364136223846793005  # wraps around; the factor is odd, so no two agree


class Commands:
    """The methods are the commands."""

    def __init__(self, kit: str, device: int) -> None:
        self._kit = kit
        self._device = device
        self._where = "cpu" if kit == "memfd" else f"cuda:{device}"
        self._memory: Any = None
        self._words = torch.empty(0, dtype=torch.int64)

    def create(self, num_bytes: int) -> None:
        if self._kit == "memfd":
            from pdrt._C import Memory

            self._take(Memory.create("pdrt-probe", num_bytes))
        else:
            from pdrt._C_cuda import DeviceMemory

            self._take(DeviceMemory.create(self._device, num_bytes, self._kit))

    def share(self) -> Descriptor | str:
        """What another process needs to map it: a descriptor, or a handle in hex."""
        if self._kit == "ipc":
            return str(self._memory.ipc_handle.hex())
        return Descriptor(self._memory.fd, self._memory.num_bytes)

    def attach(self, fd: int = -1, num_bytes: int = 0, handle: str = "") -> None:
        if self._kit == "memfd":
            from pdrt._C import Memory

            self._take(Memory.attach(fd, True))
        elif self._kit == "vmm":
            from pdrt._C_cuda import DeviceMemory

            self._take(DeviceMemory.attach_fd(self._device, fd, num_bytes))
        else:
            from pdrt._C_cuda import DeviceMemory

            self._take(DeviceMemory.attach_ipc(self._device, bytes.fromhex(handle), num_bytes))

    def _take(self, memory: Any) -> None:
        self._memory = memory
        self._words = torch.from_dlpack(memory).view(torch.int64)

    def fill(self, seed: int) -> None:
        self._words.copy_(pattern(len(self._words), seed, self._where))
        self._finish()

    def check(self, seed: int) -> int:
        """Words that are not as `fill` left them."""
        return int((self._words != pattern(len(self._words), seed, self._where)).sum())

    def read(self, seed: int, seconds: float) -> dict[str, int]:
        """Reads all of it over and over, several passes under way at any time."""
        wanted = pattern(len(self._words), seed, self._where)
        wrong = torch.zeros((), dtype=torch.int64, device=self._where)
        passes, deadline = 0, time.monotonic() + seconds
        while time.monotonic() < deadline:
            for _ in range(8):
                wrong += (self._words != wanted).sum()
                passes += 1
            self._finish()
        return {"passes": passes, "wrong_words": int(wrong)}

    def _finish(self) -> None:
        if self._where != "cpu":
            torch.cuda.synchronize(self._device)


if __name__ == "__main__":
    serve(Commands(sys.argv[2], int(sys.argv[3])))
