"""The memory that a server's processes share: weights and KV pool, as the keeper holds them.

CPU   the keeper makes two memory files; the loader writes the weights and ends; they are sealed.
GPU   the keeper has no context on the device, so the loader makes both slabs there, the pool once
      it is known what the workers take, and sends what they attach by: descriptors (VMM) or handles
      (legacy IPC). It stays until the server ends, since memory with a handle lives no longer than
      its maker.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from pdrt._C import Memory
from pdrt.errors import EngineDead
from pdrt.kv.shape import SharedMemory
from pdrt.messages import ServerSpec
from pdrt.worker.process import Child

log = logging.getLogger("pdrt")


@dataclass(slots=True)
class Slabs:
    """What the keeper passes to each worker.

    Attributes:
        fds: of weights and KV pool; none where there are handles.
        handles: their legacy IPC handles.
        owner: the process that made them, where it must live as long as they are used.
    """

    fds: list[int] = field(default_factory=list)
    handles: tuple[bytes, ...] = ()
    owner: Child | None = None
    _files: list[Memory] = field(default_factory=list)

    @staticmethod
    def on_cpu(server: ServerSpec) -> Slabs:
        """Memory files that nobody has written to.

        Raises:
            OSError: the system has no memory for them.
        """
        sizes = {"pdrt-weights": server.weight_bytes, "pdrt-kv": server.kv_bytes}
        files = [Memory.create(name, num_bytes) for name, num_bytes in sizes.items()]
        return Slabs(fds=[file.fd for file in files], _files=files)

    def seal(self) -> None:
        """Nothing more is written to the weights, which are in a memory file."""
        self._files[0].seal()

    def take(self, fds: Sequence[int], handles: Sequence[bytes]) -> None:
        """A slab that `owner` has made on a GPU: the weights, then the pool. fds are ours now."""
        self.fds += fds
        self.handles += tuple(handles)

    def lose_owner(self) -> None:
        """The owner has ended before its time.

        Raises:
            EngineDead: its memory was shared by handles, and has gone with it.
        """
        assert self.owner is not None
        how, self.owner = self.owner.close(), None
        if self.handles:
            raise EngineDead(
                f"the process that owns the GPU memory {how}, and with legacy IPC the memory is "
                "gone; start again, with --memory-export vmm where the device can"
            )
        log.warning("the process that made the GPU memory %s; the memory itself stays", how)

    def close(self) -> None:
        """Lets the owner go; its memory goes with the last process that has it mapped."""
        if self.owner is not None:
            self.owner.leave()
        if not self._files:
            for fd in self.fds:
                os.close(fd)


def attach(
    server: ServerSpec, fds: Sequence[int], handles: Sequence[bytes]
) -> tuple[SharedMemory, SharedMemory]:
    """Weights, read-only where the system can, and KV pool, in a worker. The fds stay open.

    Raises:
        RuntimeError, OSError: they cannot be mapped.
    """
    weights, kv = handles or fds
    return attach_weights(server, weights), _attach(server, kv, server.kv_bytes, writable=True)


def attach_weights(server: ServerSpec, key: int | bytes) -> SharedMemory:
    """By their descriptor, which stays open, or their handle; as `attach`."""
    return _attach(server, key, server.weight_bytes, writable=False)


def _attach(server: ServerSpec, key: int | bytes, num_bytes: int, writable: bool) -> SharedMemory:
    if server.device == "cpu":
        assert isinstance(key, int), "handles are for memory of a GPU"
        return Memory.attach(key, writable=writable)
    from pdrt._C_cuda import DeviceMemory

    device = device_number(server.device)
    if isinstance(key, bytes):
        return DeviceMemory.attach_ipc(device, key, num_bytes, writable)
    return DeviceMemory.attach_fd(device, key, num_bytes, writable)


def device_number(device: str) -> int:
    """cuda:1 -> 1"""
    return int(device.removeprefix("cuda:"))
