"""The engine's thread: an event loop, how other threads call into it, and how the front end starts
there."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

from pdrt.errors import EngineDead
from pdrt.frontend import FrontEnd
from pdrt.messages import ServerSpec

T = TypeVar("T")
P = ParamSpec("P")


class LoopThread:
    """Owns a daemon thread that runs an event loop until `stop`."""

    def __init__(self, name: str) -> None:
        self._owner = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._posting = threading.RLock()  # a finalizer that runs within `call` may stop
        self._stopped = False
        self._thread = threading.Thread(target=_run, args=(self._loop,), name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Calls a function in the thread. After `stop` the future fails with EngineDead."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        if not self.is_ours:
            future.set_exception(
                EngineDead(
                    f"this engine belongs to process {self._owner}, from which this one was "
                    "forked; make an Engine here, or start processes by spawn"
                )
            )
        elif not self._post(run):
            future.set_exception(EngineDead("the engine was shut down"))
        return future

    def _post(self, function: Callable[[], object]) -> bool:
        """False once `stop` has been called: the loop runs nothing that is posted after its end."""
        with self._posting:
            return not self._stopped and call_soon(self._loop, function)

    @property
    def is_ours(self) -> bool:
        """False in a forked child, which has neither the thread nor a right to end anything."""
        return os.getpid() == self._owner

    def run(self, coroutine: Coroutine[object, object, T]) -> Future[T]:
        """Runs a coroutine in the thread's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def stop(self, last: Callable[[], object]) -> None:
        """Calls `last` in the thread, then ends it; waits for that. Only the first `last` runs."""

        def end() -> None:
            try:
                last()
            finally:
                self._loop.stop()

        with self._posting:
            self._post(end)
            self._stopped = True
        if self._thread is not threading.current_thread():
            self._thread.join()


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> bool:
    """From any thread; False when the loop is closed and the call will not be made."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return False
    return True


class Doorbell:
    """Wakes readers in an event loop, all that have news by then in one call.

    A step of sixteen requests has news for sixteen readers; a call into another thread's loop for
    each would cost more than the news.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._is_rung = False  # and not answered: the answer finds what is appended before it

    def ring(self, wake: Callable[[], object]) -> None:
        """From any thread: `wake` is called in the loop, unless that is closed."""
        self._waiting.append(wake)
        if not self._is_rung:
            self._is_rung = True
            call_soon(self.loop, self._answer)

    def _answer(self) -> None:
        self._is_rung = False  # first: who appends from here on rings again
        while self._waiting:
            self._waiting.popleft()()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    if starts := asyncio.all_tasks(loop):  # one that was interrupted: it ends what it has begun
        for start in starts:
            start.cancel()
        loop.run_until_complete(asyncio.gather(*starts, return_exceptions=True))
    loop.close()


def start_front_end(server: ServerSpec, max_queued_requests: int) -> tuple[LoopThread, FrontEnd]:
    """Starts the processes and the thread that talks to them.

    Raises:
        PdrtError: what could not be started, and why; nothing is left running then.
    """

    async def start() -> FrontEnd:
        front = FrontEnd(server, max_queued_requests)
        try:
            await front.start()
        except BaseException as error:
            front.stop(EngineDead(f"the engine did not start: {error}"))
            raise
        return front

    thread = LoopThread("pdrt engine")
    try:
        return thread, thread.run(start()).result()
    except BaseException:
        thread.stop(lambda: None)
        raise
