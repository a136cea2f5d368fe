"""The doctor: says what is there and what to do, on any machine, and changes nothing.

The MPS daemon is stood in for by a script that answers as the real one does, where a daemon's start
and end are the subject; the real one needs a device.
"""

from __future__ import annotations

import builtins
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pdrt import mps
from pdrt.doctor import __main__ as doctor
from pdrt.doctor import gpu, host
from pdrt.doctor.finding import MISSING, NOTE, OK, Finding, examined, missing
from tests.processes import eventually, is_running

ROOT = Path(__file__).parent.parent

# -- the whole ------------------------------------------------------------------------------------


def diagnosis(*arguments: str) -> str:
    command = [sys.executable, "-m", "pdrt.doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_it_prints_a_line_for_each_subject_and_the_same_as_json() -> None:
    lines = diagnosis().splitlines()
    findings = json.loads(diagnosis("--json"))
    assert [line.split()[1] for line in lines] == [
        found["subject"].split()[0] for found in findings
    ]
    assert [line.split()[0] for line in lines] == [found["status"] for found in findings]
    subjects = {found["subject"] for found in findings}
    assert {"python", "torch", "triton", "pdrt._C", "pdrt._C_cuda", "cpu", "memory"} <= subjects
    assert {"nofile", "memlock", "driver", "nvcc", "libcudart", "mps"} <= subjects


def test_whatever_is_missing_comes_with_what_to_do() -> None:
    for found in doctor.examine():
        assert found.status in (OK, MISSING, NOTE)
        assert found.found
        assert found.advice or found.status != MISSING, found


def test_an_examination_that_breaks_does_not_end_the_others() -> None:
    def broken() -> list[Finding]:
        raise OSError(13, "Permission denied", "/proc/x")

    (found,) = examined("limits", broken)
    assert found.status == MISSING
    assert "PermissionError" in found.found
    assert "/proc/x" in found.found


def test_a_line_says_status_subject_finding_and_advice() -> None:
    assert missing("driver", "none", "install one").line(10) == (
        "missing driver      none; install one"
    )


# -- the host -------------------------------------------------------------------------------------


def test_packages_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    torch, triton, numpy = host.packages()
    assert (torch.status, torch.advice) == (MISSING, "pip install torch")
    assert triton.status == NOTE
    assert numpy.status == MISSING


def test_a_torch_without_cuda_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.11.0+cpu")
    assert host.package("torch").advice == "a build for the CPU; a GPU needs one with CUDA"
    assert host.package("numpy").status == OK


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """As if `from pdrt import module` found no such file."""
    real = builtins.__import__

    def importing(name: str, *rest: object) -> object:
        names = rest[2] if len(rest) > 2 else ()
        if name == "pdrt" and isinstance(names, Sequence) and module in names:
            raise ImportError(f"no pdrt.{module}")
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", importing)


def test_extensions_that_are_not_built_come_with_how_to_build_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, "_C")
    assert "make extension" in host.cpu_extension().advice
    without(monkeypatch, "_C_cuda")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert host.cuda_extension().advice == "for a GPU: install nvcc 12.0 or newer, build again"
    extension, found = gpu.usable_extension()
    assert extension is None
    assert found.found == "not asked: pdrt._C_cuda is not built"


def test_low_limits_come_with_the_command_that_raises_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (512, 1024))
    assert host.open_files().status == MISSING
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert host.open_files().status == OK
    assert "unlimited open files for a server, 1024 for a program" in host.open_files().found
    assert "ulimit -l unlimited" in host.locked_memory().advice
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert host.open_files().status == host.locked_memory().status == OK


def test_cpu_flags_are_read(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx512f\n")
    assert host.cpu_flags(tmp_path) == {"fpu", "avx2", "avx512f"}
    (tmp_path / "cpuinfo").write_text("processor : 0\n")
    assert host.cpu_flags(tmp_path) == set()


# -- the GPU --------------------------------------------------------------------------------------


def test_a_machine_without_nvcc_or_mps_is_told_what_they_are_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert gpu.toolkit().advice == "only needed to build pdrt._C_cuda"
    assert gpu.private_mps(has_device=True).status == NOTE
    assert "processes take turns" in gpu.private_mps(has_device=True).advice


def test_an_export_that_the_driver_lacks_comes_with_the_other_one() -> None:
    assert gpu.unsupported(1, "vmm").advice == "--memory-export ipc"
    assert gpu.unsupported(1, "ipc").advice == "--memory-export vmm"


def test_sharing_that_fails_is_found_with_its_reason() -> None:
    pytest.importorskip("pdrt._C_cuda")
    found = gpu.share(999, "vmm")  # no machine has so many
    assert found.status == MISSING
    assert found.subject == "device 999 vmm"
    assert "CudaUnavailable" in found.found
    assert found.advice == "--memory-export ipc may work instead"


def test_sharing_that_hangs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SHARING_SECONDS", 0.01)
    found = gpu.share(0, "ipc")
    assert found.status == MISSING
    assert found.found == "two processes were not done sharing after 0.01 s"


# -- MPS ------------------------------------------------------------------------------------------

# Takes commands while its other self runs, like the real one; "quit" ends it.
DAEMON = """#!/bin/sh
pipe=$CUDA_MPS_PIPE_DIRECTORY
echo "$CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_LOG_DIRECTORY $*" >> "$(dirname "$0")/calls"
if [ "$1" = "-f" ]; then
    touch "$pipe/up"
    while [ -e "$pipe/up" ]; do sleep 0.05; done
    exit 0
fi
read command
[ -e "$pipe/up" ] || exit 1
[ "$command" = quit ] && rm "$pipe/up"
exit 0
"""
SULKING = "#!/bin/sh\necho 'Cannot find MPS control daemon process'\nexit 1\n"
# As the real one does, it starts another program; neither of them ends when it is told to.
DEAF = """#!/bin/sh
if [ "$1" = -f ]; then
    sleep 60 &
    echo $! > "$(dirname "$0")/server"
    wait
fi
read command
[ "$command" != quit ]
"""


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    program = tmp_path / mps.BINARY
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return program


@pytest.fixture
def children_with_driver(monkeypatch: pytest.MonkeyPatch, driver: Path) -> None:
    """Processes that are started find the stand-in for NVIDIA's driver."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    monkeypatch.setenv("TRACE", os.devnull)


def test_a_private_daemon_has_a_folder_of_its_own_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, DAEMON)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with mps.PrivateMps() as daemon:
        assert is_running(daemon.pid)
        variables = daemon.environment(active_threads=30)
        assert variables == {
            "CUDA_MPS_PIPE_DIRECTORY": str(daemon.folder),
            "CUDA_MPS_LOG_DIRECTORY": str(daemon.folder),
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30",
        }
    assert not is_running(daemon.pid)
    assert not daemon.folder.exists()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert {call.split()[0] for call in calls} == {str(daemon.folder)}
    assert sum(call.endswith(" -f") for call in calls) == 1


@pytest.mark.parametrize(
    ("daemons", "clients"), [("3", "0"), ("2, 5", "0,1"), ("GPU-8932f937", None), ("", None)]
)
def test_clients_count_the_devices_that_the_daemon_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, daemons: str, clients: str | None
) -> None:
    stand_in(tmp_path, monkeypatch, DAEMON)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", daemons)
    with mps.PrivateMps() as daemon:
        assert daemon.environment().get("CUDA_VISIBLE_DEVICES") == clients


def test_a_daemon_that_does_not_start_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, SULKING)
    monkeypatch.setattr(mps.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(mps.MpsError, match="did not start: Cannot find MPS control daemon process"):
        mps.PrivateMps()
    assert list(tmp_path.glob("pdrt-mps-*")) == []
    assert gpu.private_mps(has_device=True).status == MISSING


def test_a_daemon_that_does_not_listen_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, DEAF)
    monkeypatch.setattr(mps, "STOP_SECONDS", 0.2)
    daemon = mps.PrivateMps()
    told = tmp_path / "server"
    assert eventually(lambda: told.exists() and told.read_text() != "", 20.0)
    server = int(told.read_text())
    assert is_running(server)
    daemon.stop()
    assert not is_running(daemon.pid)
    assert eventually(lambda: not is_running(server), 5.0)


def test_the_doctor_tries_a_private_daemon_only_where_a_device_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children_with_driver: None
) -> None:
    stand_in(tmp_path, monkeypatch, DAEMON)
    assert gpu.private_mps(has_device=True).status == OK
    assert gpu.private_mps(has_device=False).found.endswith("not tried: no device can be used")


def test_a_daemon_that_serves_no_client_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children_with_driver: None
) -> None:
    """As where the server of MPS, which the first client needs, cannot start."""
    stand_in(tmp_path, monkeypatch, DAEMON)
    monkeypatch.setattr(mps.tempfile, "tempdir", str(tmp_path))
    with mps.PrivateMps() as daemon:
        daemon.try_client(0)
        with pytest.raises(mps.MpsError, match="cannot use the device: .*999"):
            daemon.try_client(999)
    monkeypatch.setattr(mps, "CLIENT", "import time; time.sleep(60)")
    monkeypatch.setattr(mps, "CLIENT_SECONDS", 0.1)
    found = gpu.private_mps(has_device=True)
    assert (found.status, found.found) == (MISSING, "a client of MPS waited 0.1 s for the device")
    assert list(tmp_path.glob("pdrt-mps-*")) == []


def test_shares_of_the_device_are_percentages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, DAEMON)
    with mps.PrivateMps() as daemon:
        for wrong in (0, 101):
            with pytest.raises(ValueError, match=f"active_threads is {wrong}; give a percentage"):
                daemon.environment(wrong)


def test_without_the_binary_there_is_no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(mps.MpsError, match="is not on the PATH; it comes with the NVIDIA driver"):
        mps.PrivateMps()
