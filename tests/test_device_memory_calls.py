"""The calls that device memory makes, seen by a driver that stands in for NVIDIA's.

tests/cpp/stand_in_driver.c keeps "device" memory in memory files of the host and writes down each
call. So the order of calls, what is given back when something fails, the sentences of errors, and
two processes sharing a slab are tested without a card; what a card does is in
test_device_memory.py.
"""

from __future__ import annotations

import pytest

from tests.cuda import needs_no_device
from tests.fixtures_driver import StandIn

pytestmark = needs_no_device


@pytest.fixture
def run(stand_in: StandIn) -> StandIn:
    return stand_in


GIVEN_BACK = [
    "cuCtxPushCurrent",
    "cuCtxSynchronize",
    "cuMemUnmap",
    "cuMemAddressFree",
    "cuCtxPopCurrent",
    "cuDevicePrimaryCtxRelease",
]


# A failed creation prints its error; `counted` tells whether descriptors or mappings are left over.
FAILING = """
import os
def state():
    maps = open("/proc/self/maps").read().count("/memfd:stand-in")
    return len(os.listdir("/proc/self/fd")), maps
before = state()
try:
    {step}
    print("no error")
except c.CudaError as error:
    print(type(error).__name__, error.code, error)
    del error
assert state() == before, (before, state())
"""


def test_memory_is_made_and_given_back_in_order(run: StandIn) -> None:
    done = run("m = c.DeviceMemory.create(1, 3 << 20)\nprint(m.num_bytes, m.mapped_bytes)\ndel m")
    assert done.printed == f"{3 << 20} {4 << 20}"
    assert done.calls == [
        "cuDevicePrimaryCtxRetain",
        "cuCtxPushCurrent",
        "cuMemCreate",
        "cuMemExportToShareableHandle",
        "cuMemAddressReserve",
        "cuMemMap",
        "cuMemSetAccess",
        "cuMemRelease",  # the mapping and the descriptor keep the memory
        "cuCtxPopCurrent",
        *GIVEN_BACK,
    ]


def test_a_capsule_keeps_the_mapping_whoever_holds_it(run: StandIn) -> None:
    done = run(
        "m = c.DeviceMemory.create(1, 5)\n"
        "old, new = m.__dlpack__(stream=1), m.__dlpack__(max_version=(1, 0), dl_device=(2, 1))\n"
        "print(m.__dlpack_device__(), 'dltensor_versioned' in repr(new))\n"
        "address = m.address\n"
        "del m, old\n"
        "import ctypes; ctypes.memset(address, 1, 5)\n"  # still mapped
        "print('mapped')\n"
        "del new"
    )
    assert done.printed.splitlines() == ["(2, 1) True", "mapped"]
    assert done.calls[-6:] == GIVEN_BACK
    assert done.calls.count("cuMemUnmap") == 1


def test_the_exchange_refuses_another_device_and_copies(run: StandIn) -> None:
    done = run(
        "m = c.DeviceMemory.create(1, 5)\n"
        "for wrong in ({'dl_device': (2, 0)}, {'copy': True}):\n"
        "    try: m.__dlpack__(**wrong)\n"
        "    except BufferError as error: print(error)\n"
        "frozen = c.DeviceMemory.attach_fd(1, m.fd, 5, writable=False)\n"
        "try: frozen.__dlpack__()\n"
        "except BufferError as error: print(error)\n"
        "frozen.__dlpack__(max_version=(1, 0))"
    )
    assert done.printed.splitlines() == [
        "the memory is mapped for CUDA device 1; move the tensor to another device later",
        "memory is shared, not copied; clone the tensor for a copy",
        "read-only memory needs a consumer of DLPack version 1",
    ]


@pytest.mark.parametrize("export", ["vmm", "ipc"])
def test_too_much_is_refused_with_asked_free_and_flags_and_leaves_nothing(
    run: StandIn, export: str
) -> None:
    done = run(FAILING.format(step=f"c.DeviceMemory.create(0, 5 << 30, '{export}')"))
    call, file = {
        "vmm": ("cuMemCreate", "device_memory"),
        "ipc": ("cuMemAlloc", "ranges"),
    }[export]
    assert done.printed.startswith(
        "CudaOutOfMemory 2 device 0 (Stand-in 0) cannot give 5.00 GiB: 1.00 GiB of 2.00 GiB are "
        "free; give a smaller --mem-fraction-static or --num-pages, or end what else uses the "
        f"device ({call} failed: out of memory (CUDA_ERROR_OUT_OF_MEMORY, 2) at csrc/cuda/{file}"
    )
    assert done.calls[-2:] == ["cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"]


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("c.DeviceMemory.attach_fd(0, 0, 1 << 20)", "cuMemImportFromShareableHandle"),
        ("c.DeviceMemory.attach_fd(0, os.memfd_create('stand-in'), 1 << 20)", "cuMemMap"),
        ("c.DeviceMemory.attach_ipc(0, bytes(64), 1 << 20)", "cuIpcOpenMemHandle"),
    ],
)
def test_what_cannot_be_attached_is_named_and_leaves_nothing(
    run: StandIn, step: str, call: str
) -> None:
    if "memfd_create" in step:  # opened before anything is counted
        step = step.replace("os.memfd_create('stand-in')", "small")
        done = run("import os\nsmall = os.memfd_create('small')\n" + FAILING.format(step=step))
    else:
        done = run(FAILING.format(step=step))
    assert "cannot be mapped as 1048576 bytes for device 0: " in done.printed
    assert f"{call} failed: another error" in done.printed
    assert done.calls[-2:] == ["cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"]
    for taken, given in [("cuMemAddressReserve", "cuMemAddressFree")]:
        assert done.calls.count(taken) == done.calls.count(given)
    assert done.calls.count("cuMemImportFromShareableHandle") == done.calls.count("cuMemRelease")


def test_a_driver_without_read_only_mappings_is_found_out(run: StandIn) -> None:
    script = (
        "m = c.DeviceMemory.create(0, 5)\n"
        "r = c.DeviceMemory.attach_fd(0, m.fd, 5, writable=False)\n"
        "print(m.writable, m.enforced, r.writable, r.enforced)"
    )
    assert run(script).printed == "True True False True"
    assert run(script, NO_READ_ONLY="1").printed == "True True False False"


def test_a_device_without_vmm_is_told_the_other_way(run: StandIn) -> None:
    done = run(FAILING.format(step="c.DeviceMemory.create(0, 5)"), NO_VMM="1")
    assert done.printed.endswith(
        "device 0 (Stand-in 0) has no virtual memory management (VMM); use --memory-export ipc"
    )


SHARING = """
import ctypes, subprocess, sys
m = c.DeviceMemory.create(0, 1 << 20, "{export}")
ctypes.memset(m.address, 7, m.num_bytes)
token, fds = (m.fd, [m.fd]) if m.export == "vmm" else (m.ipc_handle.hex(), [])
child = '''
import ctypes, sys
from pdrt import _C_cuda as c
token = sys.argv[1]
m = (c.DeviceMemory.attach_fd(0, int(token), 1 << 20) if token.isdigit()
     else c.DeviceMemory.attach_ipc(0, bytes.fromhex(token), 1 << 20))
assert ctypes.string_at(m.address, 1 << 20) == bytes([7]) * (1 << 20)
ctypes.memset(m.address, 9, m.num_bytes)
'''
subprocess.run([sys.executable, "-c", child, str(token)], pass_fds=fds, check=True)
assert ctypes.string_at(m.address, 1 << 20) == bytes([9]) * (1 << 20)
print("shared")
"""


@pytest.mark.parametrize("export", ["vmm", "ipc"])
def test_two_processes_share_a_slab(run: StandIn, export: str) -> None:
    assert run(SHARING.format(export=export)).printed == "shared"


def test_memory_shared_by_ipc_has_its_block_for_itself(run: StandIn) -> None:
    """A handle opens the whole block, and small allocations would lie in one together."""
    done = run("m = c.DeviceMemory.create(0, 5, 'ipc')\nprint(m.num_bytes, m.mapped_bytes)")
    assert done.printed == f"5 {2 << 20}"


def test_the_descriptor_is_closed_on_exec(run: StandIn) -> None:
    done = run("import os\nm = c.DeviceMemory.create(0, 5)\nprint(os.get_inheritable(m.fd))")
    assert done.printed == "False"


def test_devices_are_counted_and_reported(run: StandIn) -> None:
    done = run(
        "r = c.device_report(1)\n"
        "print(c.unavailable(), c.num_devices(), c.driver_version(), r.name,\n"
        "      r.uuid, r.pci_bus_id,\n"
        "      r.memory_free >> 30, r.memory_total >> 30, r.vmm_granularity >> 20,\n"
        "      r.supports_fd_export, r.supports_ipc_export, r.supports_bulk_copy,\n"
        "      sep='|')\n"
        "try: c.device_report(2)\n"
        "except c.CudaUnavailable as error: print(error)"
    )
    report, error = done.printed.splitlines()
    uuid = "a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1"
    assert report == f"None|2|(13, 0)|Stand-in 1|{uuid}|0000:01:00.0|1|2|2|True|True|True"
    assert error == (
        "device 2 does not exist: this process sees 2 of them, numbered from 0; "
        "CUDA_VISIBLE_DEVICES may hide others"
    )
    assert done.calls.count("cuMemAlloc") == done.calls.count("cuMemFree") == 1


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("OLD", "the NVIDIA driver serves CUDA 11.8 at most, pdrt needs 12.0; install a newer"),
        ("NO_DEVICE", "the driver does not start: another error (cuInit, 100); see whether"),
    ],
)
def test_a_driver_that_is_no_use_says_why(run: StandIn, setting: str, sentence: str) -> None:
    done = run("print(c.unavailable())", **{setting: "1"})
    assert done.printed.startswith(f"CUDA cannot be used: {sentence}")


def test_a_copy_of_no_pages_does_not_ask_the_device(
    run: StandIn,
) -> None:
    done = run(
        "where = dict(device=1, stream=0, source=16, destination=1 << 20, page_bytes=16)\n"
        "c.page_copy_list(**where, pairs=[])\n"
        "c.page_copy(**where, pairs=16, num_pairs=0)"
    )
    assert done.calls == []
