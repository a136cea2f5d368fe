"""Makes weights and KV pool on a GPU; what the loader does there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pdrt._C_cuda import DeviceMemory, device_report
from pdrt.errors import MemoryShortage
from pdrt.kv.shape import KVShape
from pdrt.messages import ServerSpec
from pdrt.model.checkpoint import read_spec
from pdrt.worker.slabs import device_number

GIB = 2**30


def make_slabs(
    server: ServerSpec, write: Callable[[ServerSpec, DeviceMemory], None]
) -> tuple[DeviceMemory, DeviceMemory, int]:
    """Weights, written, and a KV pool of the pages that were set or, with 0, of all that fit.

    Raises:
        MemoryShortage: the device has too little memory; says what would fit.
    """
    device = device_number(server.device)
    export = server.memory_export
    if export == "auto":
        export = "vmm" if device_report(device).supports_fd_export else "ipc"
    weights = DeviceMemory.create(device, server.weight_bytes, export)
    write(server, weights)
    page_bytes = kv_shape(server).page_bytes
    num_pages = server.num_pages or pages_that_fit(server, page_bytes)
    kv = DeviceMemory.create(device, (num_pages + 1) * page_bytes, export)
    return weights, kv, num_pages


def kv_shape(server: ServerSpec) -> KVShape:
    spec = read_spec(Path(server.folder))
    return KVShape(
        spec.num_layers, spec.num_kv_heads, server.page_size, spec.head_dim, server.dtype
    )


def pages_that_fit(server: ServerSpec, page_bytes: int) -> int:
    """What --mem-fraction-static of the device leaves for the pool, beside the weights.

    The rest is for contexts, graphs and activations of all processes.

    Raises:
        MemoryShortage: that is less than one request of full length.
    """
    report = device_report(device_number(server.device))
    budget = int(server.mem_fraction_static * report.memory_total) - server.weight_bytes
    num_pages = min(budget, report.memory_free) // page_bytes - 1
    smallest = -(-server.max_model_len // server.page_size)
    if num_pages < smallest:
        raise MemoryShortage(
            f"{server.device} has {report.memory_free / GIB:.2f} GiB free of "
            f"{report.memory_total / GIB:.2f} GiB; --mem-fraction-static "
            f"{server.mem_fraction_static:g} leaves {max(0, num_pages)} KV pages beside weights of "
            f"{server.weight_bytes / GIB:.2f} GiB, and one request of {server.max_model_len} "
            f"tokens needs {smallest}; give a smaller --max-model-len or a larger fraction"
        )
    return num_pages
