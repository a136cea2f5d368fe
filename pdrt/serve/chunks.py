"""HTTP as uvicorn and h11 speak it, with a short way for what is sent most: a stream's chunks."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

RESERVED_FILES = 256  # at most, for what is no client's: event loops, keeper, workers
SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger(__name__)

_CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"


class ChunkConnection(h11.Connection):
    """Writes chunks itself: they change nothing of a connection's state, so h11 need not look.

    All else, and whatever would be a mistake, goes h11's way.
    """

    _in_chunks = False  # between the head and the end of an answer whose length nobody knows

    def send(self, event: h11.Event) -> Any:  # bytes, None for ConnectionClosed
        if self._in_chunks and type(event) is h11.Data:
            return b"%x\r\n%b\r\n" % (len(event.data), event.data) if event.data else b""
        self._in_chunks = False
        if not isinstance(event, h11.Response):
            return super().send(event)
        head = super().send(event)
        self._in_chunks = _CHUNKED in head.lower()
        return head


def most_connections() -> int:
    """That this process has file descriptors for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft - min(soft // 2, RESERVED_FILES)


class ChunkProtocol(H11Protocol):
    """uvicorn's protocol over such a connection, with a bound on how many and how long idle."""

    _next_line = 0.0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert config.h11_max_incomplete_event_size is not None
        self.conn = ChunkConnection(h11.SERVER, config.h11_max_incomplete_event_size)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > (most := most_connections()):
            self._refuse(most)
        else:
            self._expect_more()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._expect_more()

    def shutdown(self) -> None:
        """Whoever is still sending a request gets no answer any more."""
        if self.conn.their_state is h11.SEND_BODY:
            self.transport.close()
        else:
            super().shutdown()

    def _refuse(self, most: int) -> None:
        """Before the system does, which costs a core and megabytes of log, and takes from workers
        that are restarted what they need."""
        self.transport.abort()
        now = self.loop.time()
        if now >= ChunkProtocol._next_line:
            ChunkProtocol._next_line = now + SECONDS_BETWEEN_LINES
            log.warning("more than %d connections: new ones are closed; raise ulimit -n", most)

    def _expect_more(self) -> None:
        """A client that has begun no request, or has not sent all of it, may not stay for ever."""
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.transport.close
            )
