"""Memory files: shared, sized once, sealed, and alive as long as a tensor looks at them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pdrt._C import Memory

SIZE = 3 * 4096 + 5
HUGE = 2 << 20


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:pdrt-test")


def test_a_new_memory_holds_zeros_and_is_shared_with_who_attaches() -> None:
    memory = Memory.create("pdrt-test", SIZE)
    writable, readable = Memory.attach(memory.fd, True), Memory.attach(memory.fd, False)
    assert memory.num_bytes == writable.num_bytes == readable.num_bytes == SIZE
    tensor, other = torch.from_dlpack(memory), torch.from_dlpack(readable)
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (SIZE,)
    assert not tensor.any()
    torch.from_dlpack(writable)[SIZE - 1] = 7
    assert tensor[SIZE - 1] == other[SIZE - 1] == 7
    assert tensor.data_ptr() == memory.address


def test_large_memory_is_mapped_where_huge_pages_can_be() -> None:
    memory = Memory.create("pdrt-test", HUGE + SIZE)
    assert memory.address % HUGE == Memory.attach(memory.fd, False).address % HUGE == 0
    assert mappings() == 1


def test_huge_pages_leave_the_bytes_as_they_are() -> None:
    """How many there are is the machine's to say; one that has none gives 0."""
    memory = Memory.create("pdrt-test", 2 * HUGE + SIZE)
    tensor = torch.from_dlpack(memory)
    tensor[::4096] = torch.arange(len(tensor[::4096]), dtype=torch.int64).to(torch.uint8)
    before = tensor.clone()
    assert memory.use_huge_pages() in (0, HUGE, 2 * HUGE)
    assert torch.equal(tensor, before)
    assert torch.equal(torch.from_dlpack(Memory.attach(memory.fd, False)), before)
    with pytest.raises(ValueError, match="mapped read-only"):
        Memory.attach(memory.fd, False).use_huge_pages()


def test_a_tensor_keeps_the_mapping_and_its_end_releases_it() -> None:
    memory = Memory.create("pdrt-test", SIZE)
    tensor = torch.from_dlpack(memory)
    view = tensor[10:20]
    del memory, tensor
    gc.collect()
    assert mappings() == 1
    view.fill_(3)
    assert view.sum() == 30
    del view
    gc.collect()
    assert mappings() == 0


def test_a_capsule_that_nobody_takes_releases_the_mapping() -> None:
    for arguments in ({}, {"max_version": (1, 0)}):
        capsule = Memory.create("pdrt-test", SIZE).__dlpack__(**arguments)
        assert mappings() == 1
        del capsule
        gc.collect()
        assert mappings() == 0


def test_numpy_sees_the_same_bytes_and_whether_they_may_be_written() -> None:
    memory = Memory.create("pdrt-test", SIZE)
    array = np.from_dlpack(memory)
    array[3] = 9
    frozen = np.from_dlpack(Memory.attach(memory.fd, False))
    assert frozen[3] == 9
    assert array.flags.writeable
    assert not frozen.flags.writeable


def test_the_exchange_refuses_what_it_cannot_do() -> None:
    memory = Memory.create("pdrt-test", SIZE)
    assert memory.__dlpack_device__() == (1, 0)
    assert memory.__dlpack__(dl_device=(1, 0), copy=False, stream=None) is not None
    with pytest.raises(ValueError, match="stream is given"):
        memory.__dlpack__(stream=1)
    with pytest.raises(BufferError, match="the memory is on the CPU"):
        memory.__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="clone the tensor"):
        memory.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="read-only memory needs"):
        Memory.attach(memory.fd, False).__dlpack__()


def test_the_size_cannot_change() -> None:
    memory = Memory.create("pdrt-test", SIZE)
    for size in (SIZE - 1, SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)


def test_a_sealed_memory_is_attached_read_only() -> None:
    memory = Memory.create("pdrt-test", SIZE)
    tensor = torch.from_dlpack(memory)
    memory.seal()
    tensor[0] = 5  # the writer's own mapping stays as it was
    with pytest.raises(PermissionError, match="it is sealed, map it read-only"):
        Memory.attach(memory.fd, True)
    with pytest.raises(PermissionError):
        os.pwrite(memory.fd, b"x", 0)
    assert torch.from_dlpack(Memory.attach(memory.fd, False))[0] == 5


WRITES_READ_ONLY = """
import sys, ctypes
from pdrt._C import Memory
memory = Memory.attach(int(sys.argv[1]), False)
ctypes.memset(memory.address, 1, 1)
"""


def test_a_write_to_a_read_only_mapping_is_a_fault() -> None:
    memory = Memory.create("pdrt-test", SIZE)
    command = [sys.executable, "-c", WRITES_READ_ONLY, str(memory.fd)]
    assert subprocess.run(command, pass_fds=[memory.fd], check=False).returncode == -11
    assert not torch.from_dlpack(memory).any()


def test_the_descriptor_is_the_memorys_own_and_closed_on_exec() -> None:
    memory = Memory.create("pdrt-test", SIZE)
    other = Memory.attach(memory.fd, True)
    assert other.fd != memory.fd
    assert not os.get_inheritable(memory.fd)
    assert not os.get_inheritable(other.fd)
    del memory
    gc.collect()
    assert os.fstat(other.fd).st_size == SIZE


def test_what_is_no_memory_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_bytes is 0; give 1 or more"):
        Memory.create("pdrt-test", 0)
    with pytest.raises(OSError, match="memory 'x+' cannot be created"):
        Memory.create("x" * 300, SIZE)
    with pytest.raises(OSError, match="descriptor -1 cannot be duplicated"):
        Memory.attach(-1, True)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="not a memory file"):
        Memory.attach(file.fileno(), True)
    unsealed = os.memfd_create("pdrt-test", os.MFD_ALLOW_SEALING)
    with pytest.raises(PermissionError, match="is not sealed; it was not made by Memory.create"):
        Memory.attach(unsealed, True)
    os.close(unsealed)
