"""A request's end and the server's: client gone, drain, abort.

    open --SIGTERM--> draining --all done, or --shutdown-timeout--> cut --> closed
                          `-------------second signal---------------^

While draining, new requests get 503 and running ones go on; at the cut each one that still runs
gets a final error. /live answers 200 to the end. Lives in the front end's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

from starlette.types import Receive

from pdrt.serve.errors import Draining


class ClientGone(Exception):
    """The client closed its connection, or left its answer unread for too long."""


class Guard:
    """Lets others end a block of the current task early: the block then raises their reason.

    Costs nothing per token, unlike racing each of them against an event.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._reason: Exception | None = None

    def __enter__(self) -> Guard:
        self._task = asyncio.current_task()
        return self

    def interrupt(self, reason: Exception) -> None:
        """Ends the block with `reason`; the first reason wins, and none counts after the end."""
        if self._task is not None and self._reason is None:
            self._reason = reason
            self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if task is None or self._reason is None:
            return
        others_cancelled_too = task.uncancel() > 0
        if kind is asyncio.CancelledError and not others_cancelled_too:
            raise self._reason from None


class Lifecycle:
    """Knows every running request, and whether new ones are welcome."""

    def __init__(self) -> None:
        self.draining = False
        self._running: set[Guard] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @asynccontextmanager
    async def request(self, receive: Receive) -> AsyncIterator[None]:
        """Runs a block as a request, until it is done or is ended early.

        Raises:
            Draining: at the start, or when the drain's time is over.
            ClientGone: `receive` told of a disconnect.
        """
        if self.draining:
            raise Draining("the server is shutting down; send the request to another one")
        guard = Guard()
        self._running.add(guard)
        self._idle.clear()
        watch = asyncio.create_task(_watch(receive, guard))
        try:
            with guard:
                yield
        finally:
            watch.cancel()
            self._running.discard(guard)
            if not self._running:
                self._idle.set()

    async def drain(self, timeout: float) -> int:
        """Stops taking requests, waits for the running ones, cuts the rest; returns how many."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return await self.cut()
        return 0

    async def cut(self) -> int:
        """Ends every running request now; each tells its client why. Returns how many."""
        self.draining = True
        cut = list(self._running)
        for guard in cut:
            guard.interrupt(Draining("the server shut down before this request was done"))
        await self._idle.wait()
        return len(cut)


async def _watch(receive: Receive, guard: Guard) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    guard.interrupt(ClientGone())
