"""Processes of a probe: the parent says what each child does, step by step, over a socket.

A child is a script beside this file that ends in `serve(Commands())`: each frame is one call of a
method, {"do": name, ...}, answered by {"answer": value} or {"error": text}. File descriptors travel
with the frames. A child ends when its parent does, as its socket then closes.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FRAME_BYTES = 60_000  # a sequenced packet of more is refused by some kernels
HERE = Path(__file__).parent


class ChildFailed(Exception):
    """A child answered with an error, or ended before it answered."""


class Child:
    """A running child. Use it in a `with`: it is killed and reaped at the end."""

    def __init__(self, script: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, str(HERE / script), str(its.fileno()), *arguments]
        self._socket = ours
        self._process = subprocess.Popen(
            command, pass_fds=[its.fileno()], env={**os.environ, **(env or {})}
        )
        its.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, *fds: int, timeout: float = 60, **arguments: object) -> Any:
        """Calls a command and returns its answer. Raises ChildFailed."""
        self.tell(do, *fds, **arguments)
        return self.answer(timeout)

    def tell(self, do: str, *fds: int, **arguments: object) -> None:
        """Calls a command; `answer` fetches what it returns."""
        try:
            send(self._socket, {"do": do, **arguments}, fds)
        except OSError as error:
            raise ChildFailed(f"the child for '{do}' has ended ({error})") from error

    def answer(self, timeout: float = 60) -> Any:
        self._socket.settimeout(timeout)
        try:
            message, fds = receive(self._socket)
        except TimeoutError:
            raise ChildFailed(f"no answer within {timeout:g} s") from None
        except OSError:
            message, fds = None, []
        if message is None:
            code = self._process.wait(timeout=5)
            raise ChildFailed(f"the child ended with code {code} and without an answer")
        if "error" in message:
            raise ChildFailed(message["error"])
        return (message["answer"], fds) if fds else message["answer"]

    def kill(self) -> None:
        """With -9, as a crash would; returns when the process is reaped."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
        self.kill()


def serve(commands: object) -> None:
    """What a child does: obeys until its parent closes the socket."""
    parent = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, fds = receive(parent)
        if message is None:
            return
        answer, given = _obey(commands, message, fds)
        send(parent, answer, given)


def _obey(
    commands: object, message: dict[str, Any], fds: list[int]
) -> tuple[dict[str, Any], list[int]]:
    method = getattr(commands, message.pop("do"))
    try:
        answer = method(*fds, **message)
    except Exception as error:  # the parent decides what an error means
        return {"error": f"{type(error).__name__}: {error}"[:4000]}, []
    finally:
        for fd in fds:
            os.close(fd)
    if isinstance(answer, Descriptor):
        return {"answer": answer.number_of_bytes}, [answer.fd]
    return {"answer": answer}, []


class Descriptor:
    """An answer that carries a file descriptor, which stays the child's."""

    def __init__(self, fd: int, number_of_bytes: int) -> None:
        self.fd = fd
        self.number_of_bytes = number_of_bytes


def send(channel: socket.socket, message: object, fds: tuple[int, ...] | list[int] = ()) -> None:
    frame = json.dumps(message).encode()
    if len(frame) > FRAME_BYTES:
        raise ValueError(f"a frame of {len(frame)} bytes is too large; the limit is {FRAME_BYTES}")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sendmsg([frame], rights)


def receive(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and the descriptors with it; None when the other side has closed."""
    frame, fds, _, _ = socket.recv_fds(channel, FRAME_BYTES, 4)
    return (json.loads(frame) if frame else None), fds
