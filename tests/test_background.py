"""How readers in one event loop hear of news from the engine's thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pdrt.background import Doorbell, LoopThread, call_soon
from pdrt.errors import EngineDead


def test_all_that_have_news_by_then_are_woken_in_one_call_in_order() -> None:
    async def listen() -> tuple[list[int], int]:
        loop, calls = asyncio.get_running_loop(), 0
        woken: list[int] = []
        call = loop.call_soon_threadsafe

        def counted(*args: object) -> object:
            nonlocal calls
            calls += 1
            return call(*args)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        bell = Doorbell(loop)

        def ring_all() -> None:
            for i in range(100):
                bell.ring(lambda i=i: woken.append(i))

        thread = threading.Thread(target=ring_all)
        thread.start()
        thread.join()  # the loop is not free before: nobody has answered
        await asyncio.sleep(0.01)
        ring_all()
        await asyncio.sleep(0.01)
        return woken, calls

    woken, calls = asyncio.run(listen())
    assert woken == 2 * list(range(100))
    assert calls == 2


def test_a_closed_loop_is_not_woken() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    woken: list[int] = []
    Doorbell(loop).ring(lambda: woken.append(1))
    assert not call_soon(loop, lambda: woken.append(2))
    assert woken == []


def test_what_is_called_while_the_thread_ends_is_told_so() -> None:
    thread = LoopThread("ending")
    ending, may_end = threading.Event(), threading.Event()

    def last() -> None:
        ending.set()
        assert may_end.wait(10)

    stopping = threading.Thread(target=thread.stop, args=(last,))
    before = thread.call(lambda: 1)
    stopping.start()
    assert ending.wait(10)
    during = thread.call(lambda: 2)
    may_end.set()
    stopping.join()
    assert before.result(timeout=10) == 1
    for late in (during, thread.call(lambda: 3)):
        with pytest.raises(EngineDead, match="was shut down"):
            late.result(timeout=10)
    thread.stop(lambda: pytest.fail("a second last"))
