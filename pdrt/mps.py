"""A private MPS daemon, so that the kernels of several processes share a device at the same time.

Without it a device runs the processes in turns, and a decode step waits for prefill's. The daemon
is ours alone: it has its own folder for pipes and logs, changes no setting of the device, serves
only processes started with `environment()`, and ends with `stop`.

    with PrivateMps() as mps:
        subprocess.Popen(command, env={**os.environ, **mps.environment(active_threads=50)})

A fatal fault in one client is an error in all of them; that is the price.
Reference: https://docs.nvidia.com/deploy/mps
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pdrt.config import visible_devices
from pdrt.errors import PdrtError

BINARY = "nvidia-cuda-mps-control"
PR_SET_PDEATHSIG = 1
START_SECONDS = 10.0
STOP_SECONDS = 5.0
CLIENT_SECONDS = 60.0
POLL_SECONDS = 0.05


# A client: a process that makes a context.
CLIENT = "import sys; from pdrt import _C_cuda; _C_cuda.device_report(int(sys.argv[1]))"


class MpsError(PdrtError):
    """The daemon did not start, or serves nobody; the message says what it said."""


def find_binary() -> str | None:
    """Where the daemon's program is; None where the driver came without it."""
    return shutil.which(BINARY)


class PrivateMps:
    """A running daemon. Raises MpsError if there is none to be had."""

    def __init__(self) -> None:
        binary = find_binary()
        if binary is None:
            raise MpsError(f"{BINARY} is not on the PATH; it comes with the NVIDIA driver")
        self._binary = binary
        self._folder = Path(tempfile.mkdtemp(prefix="pdrt-mps-"))
        self._said = self._folder / "said"
        with self._said.open("wb") as said:
            self._daemon = subprocess.Popen(
                self._command("-f"),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
                start_new_session=True,  # so that it can be ended with the server that it starts
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._daemon.pid

    @property
    def folder(self) -> Path:
        return self._folder

    def environment(self, active_threads: int = 100) -> dict[str, str]:
        """Variables that make a new process a client with at most this percentage of the SMs."""
        if not 1 <= active_threads <= 100:
            raise ValueError(f"active_threads is {active_threads}; give a percentage, 1 to 100")
        percentage = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(active_threads)}
        return {**self._places(), **percentage, **_renumbered()}

    def try_client(self, device: int) -> None:
        """Has a process use the device: only then does the daemon start the server of MPS.

        Raises:
            MpsError: it cannot, or not in CLIENT_SECONDS; says why.
        """
        try:
            done = subprocess.run(
                _with(self.environment(), [sys.executable, "-c", CLIENT, str(device)]),
                capture_output=True,
                text=True,
                timeout=CLIENT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MpsError(f"a client of MPS waited {CLIENT_SECONDS:g} s for the device") from None
        if done.returncode:
            said = (done.stderr.strip() or f"it ended with code {done.returncode}").splitlines()
            raise MpsError(f"a client of MPS cannot use the device: {said[-1]}")

    def stop(self) -> None:
        """Ends the daemon and removes its folder. Clients should have ended before."""
        if self._daemon.poll() is None:
            self._say("quit")
            self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self) -> None:
        """Waits for the end that was asked for; then by SIGTERM, then by SIGKILL."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                os.killpg(self._daemon.pid, number)
            try:
                self._daemon.wait(timeout=STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._daemon.poll() is None and time.monotonic() < deadline:
            if self._say("get_server_list"):
                return
            time.sleep(POLL_SECONDS)
        said = self._said.read_text(errors="replace").strip()[-500:]
        raise MpsError(f"{BINARY} did not start: {said or 'it said nothing'}")

    def _say(self, command: str) -> bool:
        """Gives the daemon a command; whether it took it."""
        try:
            done = subprocess.run(
                self._command(),
                input=command + "\n",
                capture_output=True,
                text=True,
                timeout=STOP_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _command(self, *arguments: str) -> list[str]:
        return _with(self._places(), [self._binary, *arguments])

    def _places(self) -> dict[str, str]:
        folder = str(self._folder)
        return {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _renumbered() -> dict[str, str]:
    """For clients, the devices that the daemon was given by number: it counts those from 0."""
    devices = visible_devices()
    if not devices or not all(each.isdecimal() for each in devices):
        return {}  # all of them, or by their UUIDs
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(len(devices))))}


def _with(variables: Mapping[str, str], command: Sequence[str]) -> list[str]:
    """The command with these variables beside those of this process."""
    return ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), *command]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
