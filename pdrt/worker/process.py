"""How a child process of pdrt begins and is begun.

A child is `python -m pdrt.worker.<module>` whose standard input is its channel to its parent, so it
needs no arguments, no environment and no name to connect to. It dies with its parent: the kernel
kills it (PR_SET_PDEATHSIG), and where that is too early or too late its channel is closed.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TypeVar

import setproctitle

from pdrt import config, errors
from pdrt.messages import Failed
from pdrt.worker.channel import Channel, pair

F = TypeVar("F")

PR_SET_PDEATHSIG = 1

LEAVE_SECONDS = 5.0
MAX_CHARACTERS = 8192  # of an error that another process is told


class Child:
    """A child process, its pidfd and the channel to it. `spawn` makes it, `close` ends it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.name = name
        self.channel = channel
        self._process = process
        self.pidfd = os.pidfd_open(process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; by pidfd, so that a reused pid is never meant."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended already

    def reap(self) -> str:
        """Waits for a process that has ended or is about to; how it ended, in words."""
        return ended_how(self._process.wait())

    def leave(self, seconds: float | None = None) -> str:
        """Closes the channel, which asks the child to end; kills it if it does not in that time."""
        if self.pidfd < 0:
            return ""
        self.channel.close()
        self._wait(LEAVE_SECONDS if seconds is None else seconds)
        return self.close()

    def _wait(self, seconds: float) -> None:
        """For its end. Not by `select`: a user's program may have a thousand files open."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(seconds * 1000)

    def close(self) -> str:
        """Kills it if it still runs, waits, and gives back its descriptors. Idempotent."""
        if self.pidfd < 0:
            return ""
        self.kill()
        how = self.reap()
        self.channel.close()
        os.close(self.pidfd)
        self.pidfd = -1
        return how


def ended_how(code: int) -> str:
    """A process's exit status, as subprocess has it, in words."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # real-time signals have no names
        return f"was killed by signal {-code}"


def spawn(
    module: str,
    name: str,
    threads: int = 1,
    new_session: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Starts `python -m module` with a channel as its standard input.

    `new_session` keeps the terminal's Ctrl-C for the front end, which decides what it means.
    """
    ours, theirs = pair()
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=theirs.fileno(),
        stdout=2,  # our standard output belongs to the user's program
        cwd=_folder_to_run_in(),
        env={**config.child_environment(threads), **(environment or {})},
        start_new_session=new_session,
    )
    theirs.close()
    return Child(name, process, ours)


def _folder_to_run_in() -> str | None:
    """None: ours. Where that has been deleted, MKL would end the child as it loads."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "/"
    return None


def end_all(children: Sequence[Child], in_order: bool) -> list[str]:
    """Ends children, all of them before waiting for any: killed, or in order, each by itself as its
    channel closes. How each ended."""
    for child in children:
        if in_order:
            child.channel.close()
        else:
            child.kill()
    return [child.leave() if in_order else child.close() for child in children]


def begin(name: str, frame: type[F], die_with_parent: bool = True) -> tuple[Channel, F, list[int]]:
    """First call of a child: its name for `ps`, its ties to the parent, and the parent's order.

    Returns:
        (channel to the parent, the order, the descriptors that came with it)
    """
    setproctitle.setproctitle(f"pdrt: {name}")
    if die_with_parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = Channel.of_fd(os.dup(0))
    if _is_orphaned(channel):
        raise SystemExit  # before the order is read, which may be to load for minutes
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    while not channel.closed:
        select.select([channel], [], [])
        for message, fds in channel.receive(most=1):
            assert isinstance(message, frame), message
            return channel, message, fds
    raise SystemExit  # the parent died before it said what to do


def _is_orphaned(channel: Channel) -> bool:
    """Whether the parent died while this process imported, before the kernel was told to kill it.

    What it sent first is still there to be read, so an end of file would be seen too late.
    """
    poll = select.poll()
    poll.register(channel, 0)  # a hang-up is always told
    return bool(poll.poll(0))


def begin_work(name: str, level: str) -> None:
    """Once a child knows what it is: its name in `ps`, its log on standard error."""
    setproctitle.setproctitle(f"pdrt: {name}")
    logging.basicConfig(
        level=level.upper(), format=f"%(levelname)s pdrt {name}: %(message)s", force=True
    )


def failure(error: BaseException) -> Failed:
    """An exception as a frame; what is not ours becomes an EngineDead with its type in the text.

    Its first characters: a frame holds no more, and a compiler's output may be long.
    """
    if isinstance(error, errors.PdrtError):
        return Failed(type(error).__name__, str(error)[:MAX_CHARACTERS])
    return Failed("EngineDead", f"{type(error).__name__}: {error}"[:MAX_CHARACTERS])


def as_error(frame: Failed) -> errors.PdrtError:
    """The exception that a frame stands for."""
    kind = getattr(errors, frame.error, errors.EngineDead)
    assert issubclass(kind, errors.PdrtError), frame.error
    return kind(frame.message)
