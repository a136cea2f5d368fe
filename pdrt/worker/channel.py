"""One end of a channel between two processes: a SOCK_SEQPACKET socketpair of msgpack frames.

Sends never block: what the socket does not take waits in a bounded queue until `flush`. A channel
whose peer is gone swallows what is sent and says so in `closed`, since the frames only wake.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Sequence

import msgspec

from pdrt.wire import MAX_FRAME_BYTES, Message, decode, encode

MAX_QUEUED_FRAMES = 4096
MAX_FDS = 8
FDS_SPACE = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


def pair() -> tuple[Channel, Channel]:
    """Two connected channels, not inherited by child processes unless passed on purpose."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(a), Channel(b)


class Channel:
    """Non-blocking frames over one socket; owns it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        # Of the longest frame, and kept: memory of this size costs the allocator more than a frame.
        self._buffer = memoryview(bytearray(MAX_FRAME_BYTES))
        self.closed = False

    @classmethod
    def of_fd(cls, fd: int) -> Channel:
        """Takes over the descriptor."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._queue) and not self.closed

    def send(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Sends or queues a frame; the descriptors are duplicated by the kernel or kept by us.

        Returns:
            False when the queue is full or the peer is gone: the frame was not sent.
        """
        if self.closed or len(self._queue) >= MAX_QUEUED_FRAMES:
            return False
        frame = encode(message)
        if self._queue or not self._try_send(frame, fds):
            self._queue.append((frame, tuple(os.dup(fd) for fd in fds)))
        return not self.closed

    def flush(self) -> None:
        """Sends what waits, as far as the socket takes it."""
        while self._queue and not self.closed:
            frame, fds = self._queue[0]
            if not self._try_send(frame, fds):
                return
            self._queue.popleft()
            for fd in fds:
                os.close(fd)

    def receive(self, most: int = MAX_QUEUED_FRAMES) -> list[tuple[Message, list[int]]]:
        """Frames that have arrived, with their descriptors, which the caller now owns.

        A frame that cannot be decoded is a bug in the peer, which is then as good as dead.
        """
        frames: list[tuple[Message, list[int]]] = []
        while not self.closed and len(frames) < most:
            try:
                data, fds = self._receive_one()
            except BlockingIOError:
                break
            except OSError:
                self.closed = True
                break
            if not data:
                self.closed = True
                break
            try:
                frames.append((decode(data), fds))
            except msgspec.DecodeError:
                self.closed = True
                for fd in fds:
                    os.close(fd)
        return frames

    def close(self) -> None:
        self.closed = True
        for _, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()
        self._sock.close()

    def _receive_one(self) -> tuple[memoryview, list[int]]:
        """A frame, which the next one overwrites, and its descriptors."""
        # socket.recv_fds ignores its flags (CPython 3.11), and a child must not inherit these
        size, ancillary, _, _ = self._sock.recvmsg_into(
            [self._buffer], FDS_SPACE, socket.MSG_CMSG_CLOEXEC
        )
        fds = array.array("i")
        for level, kind, body in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
        return self._buffer[:size], fds.tolist()

    def _try_send(self, frame: bytes, fds: Sequence[int]) -> bool:
        """True when the frame needs no further attempt: it was sent, or nobody will read it."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([frame], rights)
        except BlockingIOError:
            return False
        except OSError:
            self.closed = True
        return True
