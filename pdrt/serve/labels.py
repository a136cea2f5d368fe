"""X-Request-Id: a label for people and logs. Nothing inside is found or steered by it."""

from __future__ import annotations

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LABEL = re.compile(rb"[!-~]{1,128}")


class RequestId:
    """Answers with the client's own X-Request-Id where it is printable, else with a new one.

    Plain ASGI, and the outermost, so that the 500 of an unexpected error has it too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        label = given if _LABEL.fullmatch(given) else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = label.decode()

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", label)]
            await send(message)

        return await self._app(scope, receive, labelled)


def label_of(scope: Scope) -> str:
    """The request's X-Request-Id."""
    return str(scope["state"]["request_id"])
