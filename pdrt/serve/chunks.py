"""HTTP as uvicorn and h11 speak it, with a short way for what is sent most: a stream's chunks."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

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


class ChunkProtocol(H11Protocol):
    """uvicorn's protocol over such a connection."""

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
