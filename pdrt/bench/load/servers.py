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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from pdrt.bench.load.asking import is_ready
from pdrt.errors import ConfigError, EngineDead, PdrtError
from pdrt.machine import raise_open_files_limit

START_TIMEOUT = 600.0  # seconds: a foreign server may compile first
STOP_TIMEOUT = 30.0
STILL_TIMEOUT = 30.0  # for a server that has answered a load, or that gave it up
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
            ConfigError: there is no name, no {port} in the command, or a quote that does not end.
        """
        name, _, command = text.partition("=")
        if not name or "{port}" not in command:
            raise ConfigError(f"--server is {text!r}; give NAME=COMMAND with {{port}} in it")
        try:
            shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"--server is {text!r}: {error}") from None
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
        EngineDead: it cannot be started, ended, or did not serve in time; with the end of what it
            wrote.
    """
    with watched(server, timeout) as found:
        yield found.url


@contextmanager
def watched(server: ServerCommand, timeout: float = START_TIMEOUT) -> Iterator[Watched]:
    """As `running`, for those who ask it on the way whether it still serves.

    Raises:
        EngineDead: also where the block fails because the server ended.
    """
    port = free_port()
    # A load raises it for this process, and later servers inherit it: all have the same.
    raise_open_files_limit()
    with _open_log(server) as log:
        process = _started(server, port, log)
        with ended(process):
            found = Watched(server, process, f"http://{HOST}:{port}", log)
            found.wait_until_ready(timeout)
            try:
                yield found
            except EngineDead:
                raise
            except PdrtError:
                found.check_lives()
                raise


def _started(server: ServerCommand, port: int, log: IO[str]) -> subprocess.Popen[bytes]:
    """Raises EngineDead: there is no such program, or it may not be run."""
    try:
        return subprocess.Popen(
            server.line(port),
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise EngineDead(f"{server.name} cannot be started: {error}") from None


def _open_log(server: ServerCommand) -> IO[str]:
    if server.log:
        return server.log.open("w+", errors="replace")
    return tempfile.TemporaryFile("w+", errors="replace")


@dataclass(slots=True)
class Watched:
    """A server that was started, and what tells whether it serves."""

    server: ServerCommand
    process: subprocess.Popen[bytes]
    url: str
    log: IO[str]
    has_served: bool = False

    def wait_until_ready(self, timeout: float) -> None:
        """Raises EngineDead: it has ended, or is not ready in time."""
        deadline = time.monotonic() + timeout
        form = "{desc}: {elapsed}"
        what = f"{self.server.name} {'is waited for' if self.has_served else 'starts'}"
        with tqdm(desc=what, bar_format=form, delay=5, mininterval=1, leave=None) as bar:
            while not is_ready(self.url):
                self.check_lives()
                if time.monotonic() > deadline:
                    raise self._dead(f"did not serve in {timeout:g} s")
                time.sleep(ASK_EVERY)
                bar.update()
        self.has_served = True

    def check_serves(self) -> None:
        """After a load.

        Raises:
            EngineDead: it has ended, or is not ready again soon.
        """
        self.check_lives()
        self.wait_until_ready(STILL_TIMEOUT)

    def check_lives(self) -> None:
        """Raises EngineDead: it has ended."""
        if self.process.poll() is not None:
            when = "while it was to serve" if self.has_served else "before it served"
            raise self._dead(f"ended with {self.process.returncode} {when}")

    def _dead(self, how: str) -> EngineDead:
        return EngineDead(f"{self.server.name} {how}: {_words(self.server, self.log)}")


@contextmanager
def ended(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever happens inside, the process and its group are gone at the end.

    Asks it first, so that it can take its children down, then kills what is left: a server's
    children must not outlive it. A second Ctrl-C ends the waiting, not the killing.
    """
    try:
        yield
    finally:
        try:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT)
        finally:
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
