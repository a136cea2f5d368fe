"""Sends a wave to an OpenAI-style server and notes when each token came.

One connection for each request, all opened before the clock starts; the prompts are token ids, so
nobody's tokenizer is in the figures but for turning tokens to text. Written on plain sockets: the
client runs on the cores that it measures, and an HTTP library would cost a share of them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.peers.load import Answer, Wave
from pdrt.errors import PdrtError

Event = dict[str, Any]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def ask(port: int, wave: Wave) -> Answer:
    """Runs the wave against the server on 127.0.0.1.

    Raises:
        PdrtError: the server answered with an error or with another number of tokens, or went away.
    """
    try:
        return asyncio.run(_ask(port, wave))
    except (OSError, EOFError) as error:  # asyncio's IncompleteReadError is an EOFError
        raise PdrtError(f"the server went away: {type(error).__name__}: {error}") from None


async def _ask(port: int, wave: Wave) -> Answer:
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in wave.prompts]
    start = time.perf_counter()
    requests = zip(connections, wave.prompts, strict=True)
    try:
        answers = await asyncio.gather(
            *(_complete(connection, ids, wave.max_tokens) for connection, ids in requests)
        )
    finally:
        for _, writer in connections:
            writer.close()
    return Answer(
        [[token for token, _ in answer] for answer in answers],
        [[moment - start for _, moment in answer] for answer in answers],
    )


async def _complete(
    connection: Connection, prompt: list[int], max_tokens: int
) -> list[tuple[int, float]]:
    """The tokens of one streamed completion, each with its moment."""
    reader, writer = connection
    writer.write(_request(prompt, max_tokens))
    got: list[tuple[int, float]] = []
    async for event in _events(reader):
        now = time.perf_counter()
        for choice in event.get("choices", ()):
            got.extend((token, now) for token in choice.get("token_ids") or ())
    if len(got) != max_tokens:
        raise PdrtError(f"the server gave {len(got)} tokens of {max_tokens}")
    return got


def _request(prompt: list[int], max_tokens: int) -> bytes:
    body = json.dumps(
        {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "return_token_ids": True,
        }
    ).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[Event]:
    """The JSON of each server-sent event of a chunked answer."""
    status = (await reader.readline()).decode().strip()
    while (await reader.readline()).strip():
        pass  # headers
    if " 200 " not in f"{status} ":
        raise PdrtError(f"the server answered {status!r}: {(await reader.read(300)).decode()}")
    text = b""
    async for chunk in _chunks(reader):
        *events, text = (text + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            data = event.partition(b"data:")[2].strip()
            if data and data != b"[DONE]":
                yield _checked(json.loads(data))


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """HTTP/1.1's chunked encoding: a length in hexadecimal, a line's end, the bytes, again."""
    while length := int(await reader.readline() or b"0", 16):
        yield await reader.readexactly(length)
        await reader.readline()


def _checked(event: Event) -> Event:
    if "error" in event:
        raise PdrtError(f"the server sent an error: {event['error']}")
    return event
