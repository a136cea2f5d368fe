"""Starts a server from its command line, waits until it serves, and ends it with all its children.

The command may hold {port}, which becomes a free port, and {python}, this interpreter. It is ready
when GET /health answers 200, or where there is no such route, GET /v1/models. What it prints goes
to a file that the caller names, or to one that is shown when the server fails and then is gone.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from pdrt.errors import ConfigError, EngineDead

START_TIMEOUT = 600.0  # seconds: a foreign server may compile first
STOP_TIMEOUT = 30.0
ASK_EVERY = 0.2
LOG_TAIL = 2000  # characters of a log that an error shows
SILENT = "it wrote nothing"
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """One way to serve, by a name that tables use.

    Attributes:
        environment: of the process; None for this process's own.
        log: takes what it prints; None for a file that is gone when it has ended.
    """

    name: str
    command: str
    environment: Mapping[str, str] | None = None
    log: Path | None = None

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


def own_server(name: str, model: str, flags: str) -> ServerCommand:
    """pdrt's, with more of its flags; without a model it serves the default one."""
    command = f"{{python}} -m pdrt.serve --port {{port}} {flags}"
    return ServerCommand(name, f"{command} --model {shlex.quote(model)}" if model else command)


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
    url = f"http://{HOST}:{port}"
    with _open_log(server) as log:
        process = subprocess.Popen(
            server.line(port),
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        with ended(process):
            _wait_until_ready(server, process, url, timeout, log)
            yield url


def _open_log(server: ServerCommand) -> IO[str]:
    if server.log:
        return server.log.open("w+", errors="replace")
    return tempfile.TemporaryFile("w+", errors="replace")


def _wait_until_ready(
    server: ServerCommand,
    process: subprocess.Popen[bytes],
    url: str,
    timeout: float,
    log: IO[str],
) -> None:
    deadline = time.monotonic() + timeout
    form = "{desc}: {elapsed}"
    what = f"{server.name} starts"
    with tqdm(desc=what, bar_format=form, delay=5, mininterval=1, leave=None) as bar:
        while not is_ready(url):
            if process.poll() is not None:
                how = f"ended with {process.returncode} before it served"
                raise EngineDead(f"{server.name} {how}: {_words(server, log)}")
            if time.monotonic() > deadline:
                how = f"did not serve in {timeout:g} s"
                raise EngineDead(f"{server.name} {how}: {_words(server, log)}")
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


@contextmanager
def ended(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens inside, the process and its group are gone at the end.

    Asks it first, so that it can take its children down, then kills what is left: a server's
    children must not outlive it.
    """
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _words(server: ServerCommand, log: IO[str]) -> str:
    """The end of what it printed; of a log that is kept, the last line."""
    log.seek(0)
    text = log.read()
    return last_words(text, server.log) if server.log else text[-LOG_TAIL:].strip() or SILENT


def last_words(text: str, log: Path) -> str:
    """The last line that says something, and where the others are."""
    lines = text.strip().splitlines() or [SILENT]
    return f"{lines[-1]} (see {log})"
