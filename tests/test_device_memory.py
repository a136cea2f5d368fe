"""Device memory on a card: shared by two processes bit for bit, and alive as long as it is used.

`memfd` runs the same choreography with memory of the host, on every machine; what of it is not here
is in test_gpu_probes.py.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.dlpack import from_dlpack

from tests.cuda import _C_cuda, needs_a_device
from tests.probes import choreography, fd_survival, ipc_two_processes

DeviceMemory, CudaError = _C_cuda.DeviceMemory, _C_cuda.CudaError

MIB = 1 << 20
SIZE = 8 * MIB
DEVICE = 0 if _C_cuda.unavailable() else _C_cuda.num_devices() - 1  # not always device 0
HANDOFFS = {"memfd": 10_000, "vmm": 1_000}  # a mapping costs the card about a millisecond

on_a_card = [pytest.mark.gpu, needs_a_device]
kits_with_descriptors = pytest.mark.parametrize(
    "kit", ["memfd", pytest.param("vmm", marks=on_a_card)]
)


@pytest.fixture(scope="module")
def started() -> None:
    """The driver keeps descriptors of its own from its start on, torch's included, and from the
    first memory of each kind: they are no leak."""
    for export in ("vmm", "ipc"):
        memory, tensor = made(2 * MIB, export)
        tensor.fill_(0)
        if export == "vmm":
            DeviceMemory.attach_fd(DEVICE, memory.fd, 2 * MIB, writable=False)


@pytest.fixture
def no_leak(started: None) -> Iterator[None]:
    """The descriptors of this process after the test are those before."""
    gc.collect()
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) == before


# -- between processes ----------------------------------------------------------------------------


@pytest.mark.gpu
@needs_a_device
@pytest.mark.parametrize("kit", ["vmm", "ipc"])
def test_two_processes_see_the_same_bytes(kit: str) -> None:
    assert ipc_two_processes.both_ways(kit, DEVICE, 64 * MIB)["exact"]


@pytest.mark.gpu
@needs_a_device
def test_a_descriptor_alone_keeps_the_memory() -> None:
    assert fd_survival.survives_all("vmm", DEVICE, 64 * MIB, pause=1.0)["survives"]


@pytest.mark.gpu
@needs_a_device
def test_an_importer_reads_on_when_the_maker_is_killed() -> None:
    assert fd_survival.survives_its_maker("vmm", DEVICE, 64 * MIB, seconds=1.0)["survives"]


@kits_with_descriptors
def test_the_maker_goes_on_when_an_importer_is_killed(kit: str) -> None:
    with choreography.Child("memory_child.py", kit, str(DEVICE)) as maker:
        _, fd = fd_survival.made(maker, SIZE, seed=1)
        with choreography.Child("memory_child.py", kit, str(DEVICE)) as importer:
            importer.ask("attach", fd, num_bytes=SIZE)
            importer.tell("read", seed=1, seconds=30)
        os.close(fd)
        assert maker.ask("check", seed=1) == 0
        maker.ask("fill", seed=2)
        assert maker.ask("check", seed=2) == 0


@kits_with_descriptors
def test_thousands_of_handoffs_of_a_descriptor_leak_none(kit: str) -> None:
    size = 2 * MIB  # the granularity of VMM
    with (
        choreography.Child("memory_child.py", kit, str(DEVICE)) as maker,
        choreography.Child("memory_child.py", kit, str(DEVICE)) as importer,
    ):
        _, fd = fd_survival.made(maker, size, seed=1)
        importer.ask("attach", fd, num_bytes=size)
        before = len(list(Path(f"/proc/{importer.pid}/fd").iterdir()))
        for _ in range(HANDOFFS[kit]):
            importer.ask("attach", fd, num_bytes=size)
        assert len(list(Path(f"/proc/{importer.pid}/fd").iterdir())) == before
        os.close(fd)
        assert importer.ask("check", seed=1) == 0


# -- in one process -------------------------------------------------------------------------------


def made(num_bytes: int, export: str = "vmm") -> tuple[Any, torch.Tensor]:
    memory = DeviceMemory.create(DEVICE, num_bytes, export)
    return memory, from_dlpack(memory)


@pytest.mark.gpu
@needs_a_device
@pytest.mark.parametrize("export", ["vmm", "ipc"])
@pytest.mark.usefixtures("no_leak")
def test_a_slab_is_a_flat_tensor_of_the_bytes_asked_for(export: str) -> None:
    memory, tensor = made(3 * MIB + 5, export)
    assert (tensor.dtype, tensor.shape) == (torch.uint8, (3 * MIB + 5,))
    assert tensor.device == torch.device("cuda", DEVICE)
    assert tensor.data_ptr() == memory.address
    assert memory.num_bytes == 3 * MIB + 5 <= memory.mapped_bytes
    assert memory.export == export
    assert memory.__dlpack_device__() == (2, DEVICE)
    tensor.fill_(7)
    assert int(tensor.sum(dtype=torch.int64)) == 7 * (3 * MIB + 5)


@pytest.mark.gpu
@needs_a_device
def test_a_tensor_keeps_the_memory_and_its_end_gives_it_back() -> None:
    torch.empty(1, device=f"cuda:{DEVICE}")  # the context takes memory of its own
    free = _C_cuda.device_report(DEVICE).memory_free
    memory, tensor = made(512 * MIB)
    view = tensor[10:20]
    del memory, tensor
    gc.collect()
    assert free - _C_cuda.device_report(DEVICE).memory_free >= 512 * MIB
    assert int(view.fill_(3).sum()) == 30
    del view
    gc.collect()
    assert free - _C_cuda.device_report(DEVICE).memory_free < 64 * MIB


@pytest.mark.gpu
@needs_a_device
@pytest.mark.usefixtures("no_leak")
def test_a_read_only_mapping_shows_the_bytes_and_is_marked() -> None:
    memory, tensor = made(2 * MIB)
    tensor.fill_(9)
    frozen = DeviceMemory.attach_fd(DEVICE, memory.fd, 2 * MIB, writable=False)
    assert not frozen.writable
    assert bool((from_dlpack(frozen) == 9).all())
    with pytest.raises(BufferError, match="read-only memory needs"):
        frozen.__dlpack__()


@pytest.mark.gpu
@needs_a_device
def test_the_exchange_refuses_what_it_cannot_do() -> None:
    memory, _ = made(1)
    with pytest.raises(BufferError, match=f"mapped for CUDA device {DEVICE}"):
        memory.__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="clone the tensor"):
        memory.__dlpack__(copy=True)
    with pytest.raises(ValueError, match="no IPC handle; send its descriptor"):
        memory.ipc_handle  # noqa: B018
    with pytest.raises(ValueError, match="no descriptor; send its ipc_handle"):
        made(1, "ipc")[0].fd  # noqa: B018


@pytest.mark.gpu
@needs_a_device
@pytest.mark.parametrize("export", ["vmm", "ipc"])
@pytest.mark.usefixtures("no_leak")
def test_too_much_is_refused_with_asked_free_and_what_to_change(export: str) -> None:
    with pytest.raises(_C_cuda.CudaOutOfMemory) as raised:
        DeviceMemory.create(DEVICE, 4 << 40, export)
    sentence = str(raised.value)
    assert raised.value.code == 2
    assert "cannot give 4096.00 GiB" in sentence
    assert "are free; give a smaller --mem-fraction-static or --num-pages" in sentence
    assert "csrc/cuda/" in sentence


@pytest.mark.gpu
@needs_a_device
@pytest.mark.usefixtures("no_leak")
def test_a_descriptor_of_something_else_is_refused() -> None:
    fd = os.memfd_create("no device memory")
    with pytest.raises(CudaError, match=f"descriptor {fd} cannot be mapped as {MIB} bytes"):
        DeviceMemory.attach_fd(DEVICE, fd, MIB)
    os.close(fd)


@pytest.mark.gpu
@needs_a_device
def test_a_device_that_is_not_there_is_named() -> None:
    count = _C_cuda.num_devices()
    with pytest.raises(_C_cuda.CudaUnavailable, match=f"device {count} does not exist"):
        DeviceMemory.create(count, 1)


@pytest.mark.gpu
@needs_a_device
def test_the_report_agrees_with_torch() -> None:
    report, seen = _C_cuda.device_report(DEVICE), torch.cuda.get_device_properties(DEVICE)
    assert report.name == seen.name
    assert report.compute_capability == (seen.major, seen.minor)
    assert report.num_sms == seen.multi_processor_count
    assert report.uuid == str(seen.uuid)
    assert report.memory_total == torch.cuda.mem_get_info(DEVICE)[1]
    assert report.supports_bulk_copy == (seen.major >= 9)
