"""The bound on a body's size, which holds before any route.

Plain ASGI, as Starlette's base class for middleware would break streaming and disconnects.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pdrt.serve.errors import Problem

MAX_BODY_BYTES = 8 * 1024 * 1024
DISCARD_BYTES = 8 * MAX_BODY_BYTES
DISCARD_SECONDS = 2.0


class BodyLimit:
    """Reads each body before the app sees it; a larger one is thrown away and answered with 413."""

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        if int(headers.get(b"content-length", b"0")) > self._max_bytes:
            if b"expect" not in headers:  # such a client waits for our word before it sends
                await _discard(receive)
            return await self._refuse(scope, receive, send)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                await _discard(receive)
                return await self._refuse(scope, receive, send)
        return await self._app(scope, _replay(bytes(body), receive), send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the body is larger than {self._max_bytes} bytes; send less"
        problem = Problem(413, message, code="body_too_large", headers={"connection": "close"})
        await problem.response()(scope, receive, send)


async def _discard(receive: Receive) -> None:
    """Reads on for a while: closing on unread bytes resets the connection, answer and all."""
    num_bytes = 0
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while num_bytes < DISCARD_BYTES:
                message = await receive()
                num_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body once, then what the server says (a disconnect)."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
