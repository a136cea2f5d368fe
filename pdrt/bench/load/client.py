"""Sends one request and reads its stream; notes when each read brought what.

aiohttp, because its parser is C: a chunk costs a tenth of what it does with a parser in Python, and
a load generator shares the machine with the server that it measures.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

import aiohttp

from pdrt.bench.load.api import Failure, Target, body_of, check_end, read_event
from pdrt.bench.load.records import Record
from pdrt.bench.load.sessions import History, Turn
from pdrt.machine import raise_open_files_limit

DONE = b"[DONE]"
ERROR_TEXT = 300  # characters of a refusal that are kept


class EventReader:
    """Cuts a stream into server-sent events, whatever the network made of it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


class Client:
    """Connections to one server. Times of its records count from `start`."""

    def __init__(self, target: Target) -> None:
        raise_open_files_limit()  # a request is a connection
        self._target = target
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=target.timeout),
            headers={
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
                **target.headers,
            },
        )
        self.start = time.perf_counter()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._session.close()

    def now(self) -> float:
        return time.perf_counter() - self.start

    async def send(self, turn: Turn, history: History, record: Record) -> None:
        """Runs a request to its end. What goes wrong is the record's `error`, by name."""
        body = body_of(self._target, turn, history)
        record.is_exact = self._target.ignores_eos
        record.sent = self.now()
        try:
            await self._stream(body, record)
        except Failure as error:
            record.error = str(error)
        except TimeoutError:
            record.error = f"no end after {self._target.timeout:g} s"
        except (aiohttp.ClientError, OSError) as error:
            record.error = f"{type(error).__name__}: {error}"
        record.ended = self.now()

    async def _stream(self, body: bytes, record: Record) -> None:
        async with self._session.post(self._target.url, data=body) as response:
            if response.status != 200:
                text = (await response.text())[:ERROR_TEXT]
                raise Failure(f"HTTP {response.status}: {text}")
            reader = EventReader()
            ended = False
            async for data in response.content.iter_any():
                at = self.now()
                for event in reader.feed(data):
                    if event == DONE:
                        ended = True
                    else:
                        read_event(event, at, record)
        check_end(record, ended)


async def sleep_until(client: Client, at: float) -> None:
    """Until `at` seconds after the client's start."""
    wait = at - client.now()
    if wait > 0:
        await asyncio.sleep(wait)
