"""The CUDA extension where there is no device: it imports, refuses what is wrong, and its machine
code is what was meant. What needs a device is in test_device_memory.py and test_page_copy.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cuda import _C_cuda, cuobjdump, needs_no_device

CudaUnavailable, DeviceMemory = _C_cuda.CudaUnavailable, _C_cuda.DeviceMemory

LIST = {"device": 0, "stream": 0, "source": 1 << 20, "destination": 1 << 21, "page_bytes": 4096}
TABLE = {**LIST, "pairs": 1 << 22, "num_pairs": 3}
STRIDES = dict.fromkeys(
    ("source_page_stride", "source_layer_stride")
    + ("destination_page_stride", "destination_layer_stride"),
    4096,
)

ALONE = """
import sys
import pdrt._C_cuda as extension
assert "torch" not in sys.modules
print(extension.BUILD)
"""


def test_it_imports_without_torch_and_says_what_it_holds() -> None:
    command = [sys.executable, "-c", ALONE]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"cuda 1\d\.\d \(sm_80\+sm_90\+compute_90\)\n", said)
    major, minor = _C_cuda.runtime_version()
    assert f"cuda {major}.{minor} " in said


def test_it_needs_no_library_of_cuda_and_shows_none() -> None:
    """A second runtime's symbols beside torch's would be taken for each other."""
    needed = subprocess.run(["ldd", _C_cuda.__file__], capture_output=True, text=True, check=True)
    assert "cuda" not in needed.stdout
    command = ["nm", "-D", "--defined-only", _C_cuda.__file__]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "PyInit__C_cuda" in shown
    assert not [line for line in shown.splitlines() if re.search(r" cuda[A-Z]", line)]


# -- without a driver -----------------------------------------------------------------------------

USES: dict[str, Callable[[], object]] = {
    "num_devices": _C_cuda.num_devices,
    "driver_version": _C_cuda.driver_version,
    "device_report": lambda: _C_cuda.device_report(0),
    "create": lambda: DeviceMemory.create(0, 1),
    "create ipc": lambda: DeviceMemory.create(0, 1, "ipc"),
    "attach_fd": lambda: DeviceMemory.attach_fd(0, sys.__stdout__.fileno(), 1),  # type: ignore[union-attr]
    "attach_ipc": lambda: DeviceMemory.attach_ipc(0, bytes(64), 1),
    "page_copy": lambda: _C_cuda.page_copy(**TABLE),
    "page_copy bulk": lambda: _C_cuda.page_copy(**TABLE, bulk=True, index_bytes=4),
    "page_copy_list": lambda: _C_cuda.page_copy_list(**LIST, pairs=[(0, 1)]),
    "page_copy_strided": lambda: _C_cuda.page_copy_strided(**TABLE, **STRIDES, num_layers=2),
}


@needs_no_device
@pytest.mark.parametrize("use", USES)
def test_every_use_without_a_driver_is_one_sentence(use: str) -> None:
    with pytest.raises(CudaUnavailable) as raised:
        USES[use]()
    sentence = str(raised.value)
    assert sentence == _C_cuda.unavailable()
    assert sentence.startswith("CUDA cannot be used: ")
    assert "\n" not in sentence
    assert isinstance(raised.value, _C_cuda.CudaError)
    assert raised.value.code != 0


def test_a_failure_of_one_use_does_not_change_the_next() -> None:
    assert _C_cuda.unavailable() == _C_cuda.unavailable()


# -- arguments ------------------------------------------------------------------------------------


def test_memory_of_no_bytes_or_an_unknown_export_is_refused() -> None:
    with pytest.raises(ValueError, match="num_bytes is 0; give 1 or more"):
        DeviceMemory.create(0, 0)
    with pytest.raises(ValueError, match="device is -1; devices are numbered from 0"):
        DeviceMemory.create(-1, 1)
    with pytest.raises(ValueError, match="export is 'fabric'; give 'vmm' or 'ipc'"):
        DeviceMemory.create(0, 1, "fabric")
    with pytest.raises(ValueError, match="an IPC handle has 64 bytes, the one given has 3"):
        DeviceMemory.attach_ipc(0, b"abc", 1)
    with pytest.raises(OSError, match="descriptor -1 cannot be duplicated"):
        DeviceMemory.attach_fd(0, -1, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": -1}, "device is -1"),
        ({"source": 0}, "source is 0; give the address of a slab"),
        ({"source": 8}, "source is 8; it must be a multiple of 16"),
        ({"destination": 24}, "destination is 24; it must be a multiple of 16"),
        ({"page_bytes": 0}, "page_bytes is 0"),
        ({"page_bytes": 20}, "page_bytes is 20; it must be a multiple of 16"),
        ({"pairs": 0}, "pairs is 0; give the address of the list"),
        ({"pairs": 4}, "pairs is 4; it must be a multiple of index_bytes, 8"),
        ({"num_pairs": -1}, "num_pairs is -1"),
        ({"index_bytes": 2}, "index_bytes is 2; give 4 or 8"),
        ({"max_ctas": -1}, "max_ctas is -1; give 0 or more"),
    ],
)
def test_a_copy_that_cannot_be_is_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _C_cuda.page_copy(**{**TABLE, **wrong})


def test_a_strided_copy_checks_its_strides_and_layers() -> None:
    with pytest.raises(ValueError, match="num_layers is 0; give 1 or more"):
        _C_cuda.page_copy_strided(**TABLE, **STRIDES, num_layers=0)
    with pytest.raises(ValueError, match="a layer stride is 40; it must be a multiple of 16"):
        _C_cuda.page_copy_strided(**TABLE, **{**STRIDES, "source_layer_stride": 40}, num_layers=2)


def test_an_empty_list_copies_nothing_and_needs_no_device() -> None:
    _C_cuda.page_copy(**{**TABLE, "num_pairs": 0})
    _C_cuda.page_copy_list(**LIST, pairs=[])
    _C_cuda.page_copy_list(**LIST, pairs=np.empty((0, 2), np.int64))


def test_a_list_whose_order_would_matter_is_refused() -> None:
    with pytest.raises(ValueError, match="page 7 is the destination of two pairs"):
        _C_cuda.page_copy_list(**LIST, pairs=[(1, 7), (2, 7)])
    one_slab = {**LIST, "destination": LIST["source"]}
    with pytest.raises(ValueError, match="page 2 is both a source and a destination of one slab"):
        _C_cuda.page_copy_list(**one_slab, pairs=[(1, 2), (2, 3)])
    with pytest.raises(ValueError, match=r"pair 1 is \(0, 2147483648\); pages are at most"):
        _C_cuda.page_copy_list(**LIST, pairs=[(0, 1), (0, 2**31)])
    with pytest.raises(ValueError, match=r"pairs has not the shape \[n, 2\]"):
        _C_cuda.page_copy_list(**LIST, pairs=[(1, 2, 3)])  # type: ignore[list-item]


@needs_no_device
def test_skipped_pairs_are_no_conflict() -> None:
    with pytest.raises(CudaUnavailable):  # so it passed the checks
        _C_cuda.page_copy_list(**LIST, pairs=[(-1, 7), (2, 7), (3, -1), (4, -1)])


# -- machine code ---------------------------------------------------------------------------------

Listing = dict[str, list[str]]  # kernel -> its instructions


@pytest.fixture(scope="module")
def machine_code() -> dict[str, Listing]:
    """By architecture."""
    found: dict[str, Listing] = {}
    for line in cuobjdump("-sass").splitlines():
        if match := re.match(r"arch = (sm_\d+)", line):
            listing = found.setdefault(match[1], {})
        elif match := re.match(r"\s+Function : (\w+)", line):
            instructions = listing.setdefault(match[1], [])
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(match[1])
    return found


def of(listing: Listing, kernel: str) -> list[list[str]]:
    found = [lines for name, lines in listing.items() if kernel in name]
    assert len(found) == 3, "one for int32, one for int64, one for pairs among the arguments"
    return found


def count(instructions: list[str], pattern: str) -> int:
    return sum(re.search(pattern, line) is not None for line in instructions)


def test_machine_code_is_there_for_both_architectures_and_ptx_for_later_ones(
    machine_code: dict[str, Listing],
) -> None:
    assert set(machine_code) == {"sm_80", "sm_90"}
    assert re.search(r"^\.target\s+sm_90", cuobjdump("-ptx"), re.M)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_pages_move_by_16_bytes_four_in_flight(
    machine_code: dict[str, Listing], architecture: str
) -> None:
    for instructions in of(machine_code[architecture], "copy_by_vectors"):
        order = [line for line in instructions if re.search(r"\b(LDG|ST|STG)\.\S*128", line)]
        assert [("LDG" in line) for line in order] == [True] * 4 + [False] * 4
        assert count(instructions, r"\bSTG\b") == 4, "all stores are known to be to global memory"
        assert count(instructions, r"\bLDG\.E\.EF\.128\b") == 4, "what is read once leaves first"
        assert count(instructions, r"\b(LDL|STL|LD\.|ST\.)") == 0


def test_the_bulk_copy_moves_no_data_through_registers(machine_code: dict[str, Listing]) -> None:
    for instructions in of(machine_code["sm_90"], "copy_by_bulk"):
        assert count(instructions, r"\bUBLKCP\.S\.G\b") >= 1
        assert count(instructions, r"\bUBLKCP\.G\.S\b") == 1
        assert count(instructions, r"\.128\b.*\bdesc\b") == 0
        assert count(instructions, r"\b(LDL|STL)\b") == 0


def test_no_kernel_spills_or_takes_more_registers_than_full_occupancy_allows() -> None:
    used = cuobjdump("-res-usage")
    kernels = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) \S+ LOCAL:(\d+)", used)
    assert len(kernels) == 12, used
    for name, registers, stack, local in kernels:
        assert (int(stack), int(local)) == (0, 0), name
        assert int(registers) <= (32 if "copy_by_vectors" in name else 64), name


# -- the build ------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent


def build_says(**environment: str) -> str:
    """What setup.py says before it builds anything."""
    env = {"PATH": "/nonexistent", "PYTHONPATH": "", **environment}
    command = [sys.executable, "setup.py", "--version"]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout


def test_a_build_without_nvcc_says_so() -> None:
    assert (
        "no CUDA extension: no nvcc found on the PATH; this build runs on the CPU" in build_says()
    )


def test_the_cuda_extension_can_be_switched_off() -> None:
    assert "no CUDA extension: PDRT_CUDA is 0" in build_says(PDRT_CUDA="0")


def test_an_nvcc_that_is_too_old_is_not_used(tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.8, V11.8.89'\n")
    nvcc.chmod(0o755)
    said = build_says(NVCC=str(nvcc), PATH="/bin")
    assert f"no CUDA extension: {nvcc} is not of CUDA 12.0 or newer" in said


def test_with_nvcc_nothing_is_said_to_be_missing() -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc here")
    assert "no CUDA extension" not in build_says(PATH=f"{Path(nvcc).parent}:/usr/bin:/bin")
