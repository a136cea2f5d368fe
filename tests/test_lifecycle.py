"""How requests and servers end: guards in one task, the drain, and signals to a real server."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from starlette.types import Message

from pdrt.errors import Overloaded
from pdrt.serve.errors import Draining
from pdrt.serve.lifecycle import ClientGone, Guard, Lifecycle
from tests.processes import eventually
from tests.server_process import ServerProcess

LONG = {"prompt": [7] * 20, "max_tokens": 2000, "ignore_eos": True}


async def never() -> Message:
    """A client that stays."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


# -- guards ---


def test_an_interrupted_block_raises_the_reason() -> None:
    async def scenario() -> None:
        guard = Guard()
        asyncio.get_running_loop().call_soon(guard.interrupt, ClientGone("first"))
        asyncio.get_running_loop().call_soon(guard.interrupt, ClientGone("second"))
        with pytest.raises(ClientGone, match="first"):
            with guard:
                await asyncio.sleep(60)
        await asyncio.sleep(0)  # the task itself is not cancelled

    asyncio.run(scenario())


def test_an_interruption_after_the_end_is_nothing() -> None:
    async def scenario() -> None:
        guard = Guard()
        with guard:
            await asyncio.sleep(0)
        guard.interrupt(ClientGone())
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    asyncio.run(scenario())


def test_a_task_cancelled_by_others_too_stays_cancelled() -> None:
    async def scenario() -> None:
        guard = Guard()

        async def block() -> None:
            with guard:
                await asyncio.sleep(60)

        task = asyncio.create_task(block())
        await asyncio.sleep(0)
        task.cancel()
        guard.interrupt(ClientGone())
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_an_error_of_the_block_itself_passes_through() -> None:
    async def scenario() -> None:
        with pytest.raises(KeyError):
            with Guard():
                raise KeyError

    asyncio.run(scenario())


# -- the drain ---


def test_a_drain_waits_for_running_requests_and_refuses_new_ones() -> None:
    async def scenario() -> None:
        lifecycle, release = Lifecycle(), asyncio.Event()

        async def request() -> str:
            async with lifecycle.request(never):
                await release.wait()
            return "done"

        running = asyncio.create_task(request())
        await asyncio.sleep(0)
        drain = asyncio.create_task(lifecycle.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await request()
        assert not drain.done()
        release.set()
        assert await drain == 0
        assert await running == "done"

    asyncio.run(scenario())


def test_a_drain_that_runs_out_of_time_cuts_the_rest() -> None:
    async def scenario() -> None:
        lifecycle = Lifecycle()

        async def request() -> None:
            async with lifecycle.request(never):
                await asyncio.sleep(60)

        running = [asyncio.create_task(request()) for _ in range(3)]
        await asyncio.sleep(0)
        assert await lifecycle.drain(0.01) == 3
        ended = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(error, Draining) for error in ended)
        assert lifecycle.num_running == 0

    asyncio.run(scenario())


def test_a_disconnect_ends_its_request_alone() -> None:
    async def scenario() -> None:
        lifecycle, left = Lifecycle(), asyncio.Event()

        async def leaves() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        async def first() -> None:
            async with lifecycle.request(leaves):
                await asyncio.sleep(60)

        async with lifecycle.request(never):
            task = asyncio.create_task(first())
            await asyncio.sleep(0)
            left.set()
            with pytest.raises(ClientGone):
                await task
            assert lifecycle.num_running == 1

    asyncio.run(scenario())


# -- signals ---


@pytest.fixture
def own_server(tiny_llama: Path) -> Iterator[ServerProcess]:
    server = ServerProcess("--model", str(tiny_llama), "--served-model-name", "tiny")
    yield server
    server.close()


def in_background(server: ServerProcess, path: str, body: dict[str, object]) -> list[object]:
    """Starts a request; the list gets its status and text once it has ended."""
    result: list[object] = []

    def ask() -> None:
        response = httpx.post(server.url + path, json=body, timeout=60)
        result.extend([response.status_code, response.text])

    threading.Thread(target=ask, daemon=True).start()
    return result


def test_sigterm_lets_running_requests_finish_and_refuses_new_ones(
    own_server: ServerProcess,
) -> None:
    server = own_server
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert len(children) == 3, "keeper, prefill, decode"
    body = {**LONG, "max_tokens": 1000}
    stream = in_background(server, "/v1/completions", {**body, "stream": True})
    whole = in_background(server, "/v1/completions", body)
    assert eventually(lambda: server.metric("pdrt:num_requests_running") == 2)
    server.signal(signal.SIGTERM)
    assert eventually(lambda: server.client.get("/ready").status_code == 503)
    assert server.client.get("/health").status_code == 503
    assert server.client.get("/live").status_code == 200
    refused = server.complete(prompt="x")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] and refused.headers["connection"] == "close"
    assert server.wait() == 0
    assert stream[0] == whole[0] == 200
    assert str(stream[1]).endswith("data: [DONE]\n\n") and '"error"' not in str(stream[1])
    assert json.loads(str(whole[1]))["usage"]["completion_tokens"] == 1000
    assert eventually(lambda: not any(child.is_running() for child in children), timeout=2.0)


def test_a_second_signal_cuts_running_requests_with_a_clear_error(
    own_server: ServerProcess,
) -> None:
    server = own_server
    children = psutil.Process(server.process.pid).children(recursive=True)
    stream = in_background(server, "/v1/completions", {**LONG, "stream": True})
    whole = in_background(server, "/v1/completions", LONG)
    assert eventually(lambda: server.metric("pdrt:num_requests_running") == 2)
    server.signal(signal.SIGTERM)
    assert eventually(lambda: server.client.get("/ready").status_code == 503)
    server.signal(signal.SIGINT)
    assert server.wait() == 1
    *_, error, done, _ = str(stream[1]).split("\n\n")
    assert "shut down" in json.loads(error.removeprefix("data: "))["error"]["message"]
    assert done == "data: [DONE]"
    assert whole[0] == 503 and "shut down" in str(whole[1])
    assert eventually(lambda: not any(child.is_running() for child in children), timeout=2.0)
