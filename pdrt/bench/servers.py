"""Starts a server from its command line, waits until it serves, and ends it with all its children.

The command may hold {port}, which becomes a free port, and {python}, this interpreter. It is ready
when GET /health answers 200, or where there is no such route, GET /v1/models.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from tqdm import tqdm

from pdrt.errors import ConfigError, EngineDead

START_TIMEOUT = 600.0  # seconds: a foreign server may compile first
STOP_TIMEOUT = 30.0
ASK_EVERY = 0.2
LOG_TAIL = 2000  # characters of a log that an error shows
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """One way to serve, by a name that tables use."""

    name: str
    command: str

    @classmethod
    def parse(cls, text: str) -> ServerCommand:
        """From NAME=COMMAND.

        Raises:
            ConfigError: there is no name, or no {port} in the command.
        """
        name, _, command = text.partition("=")
        if not name or "{port}" not in command:
            raise ConfigError(f"--server is {text!r}; give NAME=COMMAND with {{port}} in it")
        return cls(name, command)

    def line(self, port: int) -> list[str]:
        filled = self.command.replace("{port}", str(port)).replace("{python}", sys.executable)
        return shlex.split(filled)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def running(server: ServerCommand, timeout: float = START_TIMEOUT) -> Iterator[str]:
    """The URL of the server, which runs within the block, in a process group of its own.

    Raises:
        EngineDead: it ended, or did not serve in time; with the end of what it wrote.
    """
    port = free_port()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            server.line(port), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_until_ready(server, process, f"http://{HOST}:{port}", timeout, log)
            yield f"http://{HOST}:{port}"
        finally:
            _stop(process)


def _wait_until_ready(
    server: ServerCommand,
    process: subprocess.Popen[bytes],
    url: str,
    timeout: float,
    log: IO[str],
) -> None:
    deadline = time.monotonic() + timeout
    form = "{desc}: {elapsed}"
    with tqdm(desc=f"{server.name} starts", bar_format=form, delay=5, mininterval=1) as bar:
        while not is_ready(url):
            if process.poll() is not None:
                raise EngineDead(
                    f"{server.name} ended with {process.returncode} before it served: {_tail(log)}"
                )
            if time.monotonic() > deadline:
                raise EngineDead(f"{server.name} did not serve in {timeout:g} s: {_tail(log)}")
            time.sleep(ASK_EVERY)
            bar.update()


def is_ready(url: str) -> bool:
    status = _status(url + "/health")
    return (status if status != 404 else _status(url + "/v1/models")) == 200


def _status(url: str) -> int | None:
    """Of a GET; None where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def _stop(process: subprocess.Popen[bytes]) -> None:
    """First asks, then kills, the whole group: a server's children must not outlive it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-LOG_TAIL:].strip() or "it wrote nothing"
