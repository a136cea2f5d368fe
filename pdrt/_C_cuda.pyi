"""Types of the CUDA extension: device memory that processes share, and copies of pages.

It is built where nvcc is, and imports where no driver is: then `unavailable()` says why, and all
else raises CudaUnavailable with that sentence. Errors of use are ValueErrors.

Addresses and streams are plain integers (`tensor.data_ptr()`, `stream.cuda_stream`), so the module
knows nothing of torch. Every function that takes a device makes that device's primary context
current for the call and puts back what was current before.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BUILD: str  # what the build holds, e.g. "cuda 13.0 (sm_80+sm_90+compute_90)"

class CudaError(RuntimeError):
    """A call of CUDA failed: the message names call, code, text, file and line."""

    code: int  # CUresult or cudaError_t, which share their numbers

class CudaUnavailable(CudaError):
    """There is no driver, or no device, or no device of that number."""

class CudaOutOfMemory(CudaError):
    """A device has too little memory: the message says asked, free, and which flag to change."""

# -- devices --------------------------------------------------------------------------------------

class DeviceReport:
    """What a device is and can do."""

    device: int
    name: str
    uuid: str  # as nvidia-smi -L shows it, without "GPU-"
    pci_bus_id: str  # domain:bus:device.0, e.g. "0000:3b:00.0"
    compute_capability: tuple[int, int]
    num_sms: int
    l2_bytes: int
    shared_bytes_per_block: int  # the most that a kernel may ask for
    memory_free: int  # bytes, as all processes of the card leave them
    memory_total: int
    compute_mode: str  # "default", "exclusive process" or "prohibited"
    supports_vmm: bool  # cuMemCreate and its kin
    supports_fd_export: bool  # ... with POSIX file descriptors: export="vmm"
    supports_ipc_export: bool  # a cuMemAlloc'd range has a legacy IPC handle: export="ipc"
    supports_ipc_events: bool
    supports_bulk_copy: bool  # page_copy(bulk=True)
    vmm_granularity: int  # bytes; sizes are rounded up to it; 0 without VMM

def unavailable() -> str | None:
    """Why CUDA cannot be used in this process, in one sentence; None where it can."""

def num_devices() -> int: ...
def driver_version() -> tuple[int, int]: ...  # the newest CUDA that the driver serves
def runtime_version() -> tuple[int, int]: ...  # of the runtime inside; needs no driver
def device_report(device: int) -> DeviceReport: ...  # makes a context, as memory_free needs one

# -- device memory --------------------------------------------------------------------------------

class DeviceMemory:
    """A slab on one device that other processes can map; a flat uint8 tensor through DLPack.

    The slab is unmapped when the last of this object and its tensors is gone, after the device has
    finished what it was doing. What a new slab holds is undefined.

    export="vmm"  made by cuMemCreate, shared by a descriptor. The memory lives while any process
                  maps it or holds a descriptor of it, so the maker may die.
    export="ipc"  made by cuMemAlloc, shared by a 64-byte handle. The maker must outlive all who
                  attach; importers must be other processes.
    """

    @staticmethod
    def create(device: int, num_bytes: int, export: str = "vmm") -> DeviceMemory:
        """Raises CudaOutOfMemory, and CudaError where the device cannot export that way."""

    @staticmethod
    def attach_fd(device: int, fd: int, num_bytes: int, writable: bool = True) -> DeviceMemory:
        """Maps the slab behind fd for `device`; num_bytes is what the maker asked for.

        fd stays the caller's. Where the driver cannot map read-only, `enforced` is False.
        """

    @staticmethod
    def attach_ipc(
        device: int, handle: bytes, num_bytes: int, writable: bool = True
    ) -> DeviceMemory: ...
    @property
    def fd(self) -> int: ...  # its own, closed on exec; ValueError for "ipc"
    @property
    def ipc_handle(self) -> bytes: ...  # 64 bytes; ValueError for "vmm"
    @property
    def export(self) -> str: ...  # "vmm" or "ipc"
    @property
    def device(self) -> int: ...  # for which it is mapped
    @property
    def address(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...  # asked for; the size of its tensors
    @property
    def mapped_bytes(self) -> int: ...  # taken: num_bytes rounded up, to 2 MiB as a rule
    @property
    def writable(self) -> bool: ...
    @property
    def enforced(self) -> bool: ...  # False: read-only by agreement, the device would write
    def __dlpack__(self, **kwargs: object) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

# -- page copy ------------------------------------------------------------------------------------
#
# Each copies pages between two slabs by one kernel on `stream` of `device` and returns at once. A
# slab is any memory that the device can address: its own, a peer's that is mapped, pinned memory of
# the host. A pair is (source page, destination page); a pair with a negative page is skipped, so
# that a list can be padded. No page may be both a source and a destination, or twice a destination.
#
# max_ctas  0: as many as fill the device; else at most so many, to leave SMs to work beside it
# bulk      copy through shared memory by the bulk engine (compute capability 9.0 and later): one
#           thread a CTA, which leaves issue slots and registers to others
#
# Addresses, page_bytes and strides are multiples of 16; strides are in bytes.

def page_copy(
    *,
    device: int,
    stream: int,
    source: int,
    destination: int,
    page_bytes: int,
    pairs: int,  # address of [num_pairs, 2] integers of index_bytes, on the device or pinned
    num_pairs: int,
    index_bytes: int = 8,  # 4 or 8
    max_ctas: int = 0,
    bulk: bool = False,
) -> None: ...
def page_copy_list(
    *,
    device: int,
    stream: int,
    source: int,
    destination: int,
    page_bytes: int,
    pairs: NDArray[np.int64] | Sequence[tuple[int, int]],  # [n, 2] of the host; read at the call
    max_ctas: int = 0,
    bulk: bool = False,
) -> None:
    """Pairs travel as arguments of the kernel, 448 a launch: right for a fork or a few pages.

    Raises ValueError for a pair that the rules above forbid, before anything is copied.
    """

def page_copy_strided(
    *,
    device: int,
    stream: int,
    source: int,
    destination: int,
    page_bytes: int,  # of one page in one layer
    num_layers: int,
    source_page_stride: int,
    source_layer_stride: int,
    destination_page_stride: int,
    destination_layer_stride: int,
    pairs: int,
    num_pairs: int,
    index_bytes: int = 8,
    max_ctas: int = 0,
    bulk: bool = False,
) -> None:
    """Slabs whose layers lie apart, of any two layouts: one launch over all layers."""
