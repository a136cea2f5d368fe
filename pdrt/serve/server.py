"""The listening socket, uvicorn without its signal handlers, and what signals do instead.

The socket is bound before a model is loaded, so that a port in use is known at once. SIGTERM and
SIGINT drain; a second one cuts the running requests.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from contextlib import AbstractContextManager, nullcontext

import uvicorn
from starlette.types import ASGIApp

from pdrt.errors import ConfigError
from pdrt.serve.chunks import ChunkProtocol
from pdrt.serve.lifecycle import Lifecycle

MAX_HEADER_BYTES = 64 * 1024
SEND_BUFFER_BYTES = 256 * 1024  # of the kernel, for each connection
BACKLOG = 1024  # connections that the kernel keeps until they are accepted
ACCEPTED_AT_ONCE = 8  # so that ChunkProtocol sees them before there are too many
KEEP_ALIVE_SECONDS = 75
CLOSE_SECONDS = 2  # for last chunks to leave once all requests are done

log = logging.getLogger(__name__)


def listen(host: str, port: int, send_timeout: float) -> socket.socket:
    """A listening socket whose connections the kernel closes when unread for `send_timeout` s.

    Raises:
        ConfigError: the address is in use or is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]  # without the address again
        raise ConfigError(
            f"cannot listen on {host}:{port}: {reason}; choose another --host or --port"
        ) from None
    # Accepted connections inherit all of these. Without the first, Nagle's algorithm holds events
    # back for 40 ms: asyncio sets it only on sockets that were made with the protocol's number.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(send_timeout * 1000))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES // 2)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a client on this machine finds the server."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach the server."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


class _Uvicorn(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Signals are handled by `serve` below."""
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """asyncio takes as many connections at a time as it tells the kernel to keep waiting."""
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(BACKLOG)


async def serve(
    app: ASGIApp, listener: socket.socket, lifecycle: Lifecycle, shutdown_timeout: float
) -> int:
    """Serves until a signal, then drains; returns the process's exit code.

    0 after a drain, even one that ran out of time; 1 after a second signal.
    """
    config = uvicorn.Config(
        app,
        http=ChunkProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=log.isEnabledFor(logging.DEBUG),
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    server = _Uvicorn(config)
    signals = _Signals()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await _first(serving, signals.next())
        return await _drain(lifecycle, shutdown_timeout, signals)
    finally:
        server.should_exit = True
        await serving


async def _drain(lifecycle: Lifecycle, timeout: float, signals: _Signals) -> int:
    log.info("draining %d requests for up to %g s", lifecycle.num_running, timeout)
    drain = asyncio.create_task(lifecycle.drain(timeout))
    await _first(drain, signals.next())
    if drain.done():
        log.info("drained; %d requests were cut", drain.result())
        return 0
    log.warning("second signal: cutting %d requests", lifecycle.num_running)
    await lifecycle.cut()
    await drain
    return 1


class _Signals:
    """SIGTERM and SIGINT, one after the other."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._queue.put_nowait, number)

    def next(self) -> asyncio.Task[int]:
        return asyncio.create_task(self._queue.get())


async def _first(*tasks: asyncio.Task[None] | asyncio.Task[int]) -> None:
    """Waits for one of them; an error of a task that is done is raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
