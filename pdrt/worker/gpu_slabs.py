"""Makes weights and KV pool on a GPU; what the loader does there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from pdrt._C_cuda import CudaError, DeviceMemory, device_report
from pdrt.kv.shape import KVShape
from pdrt.loading_messages import Loaded, PoolMade
from pdrt.messages import ServerSpec
from pdrt.model.checkpoint import read_spec
from pdrt.worker.budget import pages_that_fit
from pdrt.worker.slabs import device_number

TRIAL_BYTES = 2 << 20

log = logging.getLogger("pdrt")


class GpuSlabs:
    """The slabs of one server, mapped here for as long as this lives."""

    def __init__(self, server: ServerSpec) -> None:
        self._server = server
        self._device = device_number(server.device)
        self._export = server.memory_export
        if self._export == "auto":
            self._export = "vmm" if shares_by_fd(self._device) else "ipc"
        self._slabs: list[DeviceMemory] = []

    def make_weights(self, write: Callable[[ServerSpec, DeviceMemory], None]) -> Loaded:
        """Makes the weights' slab and has it written."""
        memory = self._make(self._server.weight_bytes)
        write(self._server, memory)
        return Loaded(device_report(self._device).memory_free, self._handles())

    def make_pool(self, worker_bytes: int) -> PoolMade:
        """Makes a pool of the pages that were set or, with 0, of all that fit beside the workers.

        Raises:
            MemoryShortage: the device has too little memory; says what would fit.
        """
        server, report = self._server, device_report(self._device)
        page_bytes = page_shape(server).page_bytes
        num_pages = server.num_pages or pages_that_fit(
            server, page_bytes, worker_bytes, report.memory_total, report.memory_free
        )
        memory = self._make((num_pages + 1) * page_bytes)
        return PoolMade(num_pages, memory.num_bytes, report.memory_total, self._handles())

    def last_fds(self) -> list[int]:
        """The descriptor of the last slab, where it is shared by one."""
        return [self._slabs[-1].fd] if self._export == "vmm" else []

    def _make(self, num_bytes: int) -> DeviceMemory:
        self._slabs.append(DeviceMemory.create(self._device, num_bytes, self._export))
        return self._slabs[-1]

    def _handles(self) -> tuple[bytes, ...]:
        return (self._slabs[-1].ipc_handle,) if self._export == "ipc" else ()


def shares_by_fd(device: int) -> bool:
    """Whether memory can be exported and imported, tried: a sandbox or MPS may forbid it."""
    if not device_report(device).supports_fd_export:
        return False
    try:
        memory = DeviceMemory.create(device, TRIAL_BYTES, "vmm")
        DeviceMemory.attach_fd(device, memory.fd, TRIAL_BYTES)
    except CudaError as error:
        log.warning("GPU memory is shared by legacy IPC, as descriptors fail: %s", error)
        return False
    return True


def page_shape(server: ServerSpec) -> KVShape:
    spec = read_spec(Path(server.folder))
    return KVShape(
        spec.num_layers, spec.num_kv_heads, server.page_size, spec.head_dim, server.dtype
    )
