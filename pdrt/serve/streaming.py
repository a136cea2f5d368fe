"""Answers whose work is done while they are sent: server-sent events, and one JSON object.

    data: {chunk}     one for each step that gave tokens; the first is sent when a token exists
    data: {usage}     if asked for
    data: {error}     instead, if something fails after the 200
    data: [DONE]      always last

Until the first output there is no status line, so errors up to then have a status of their own. A
slow reader holds back `send` (uvicorn pauses at 64 KiB, the kernel at its socket buffer), and with
it the engine's iterator, which coalesces; the kernel closes a connection that is not read for
--send-timeout, which looks like any client that leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from pdrt.request import RequestOutput
from pdrt.serve.errors import INTERNAL, problem_of
from pdrt.serve.formats import Delta, Format, choices_of, usage
from pdrt.serve.generation import Outputs
from pdrt.serve.labels import label_of
from pdrt.serve.lifecycle import ClientGone, Lifecycle
from pdrt.serve.schemas import StreamOptions

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
INLINE_SCORES = 512  # tokens whose logprobs are written in some milliseconds


@dataclass(frozen=True, slots=True)
class Work:
    """An answer to be: how to start generating, and how to write what comes."""

    lifecycle: Lifecycle
    start: Callable[[], Awaitable[Outputs]]
    format: Format
    num_prompts: int
    num_sequences: int = 1  # of each prompt


def event(payload: bytes) -> bytes:
    """One server-sent event. JSON has no raw newlines, so one data line holds it."""
    return b"data: " + payload + b"\n\n"


async def events(work: Work, options: StreamOptions) -> AsyncGenerator[bytes, None]:
    """The events of a stream but for [DONE]."""
    choices = choices_of(work.num_prompts, work.num_sequences)
    latest: dict[int, RequestOutput] = {}

    def written(delta: Delta) -> bytes:
        chunk = work.format.chunk(delta)
        if options.include_usage:
            chunk["usage"] = usage(latest.values()) if options.continuous_usage_stats else None
        return event(msgspec.json.encode(chunk))

    async with aclosing(await work.start()) as outputs:
        async for prompt, output in outputs:
            latest[prompt] = output
            for choice in choices[prompt]:
                delta = choice.advance(output)
                if delta.is_empty:
                    continue
                of_prompt = output.prompt_logprobs if delta.is_first else None
                yield await beside_others(partial(written, delta), [of_prompt, delta.logprobs])
    if options.include_usage:
        yield event(msgspec.json.encode({**work.format.last(), "usage": usage(latest.values())}))


async def beside_others(
    write: Callable[[], bytes], scored: Iterable[Collection[object] | None]
) -> bytes:
    """Thousands of logprobs take seconds to write, in which others' tokens must flow.

    Args:
        scored: the lists of logprobs that are written.
    """
    num_scored = sum(len(each or ()) for each in scored)
    return write() if num_scored <= INLINE_SCORES else await asyncio.to_thread(write)


class EventStream(Response):
    """Sends `events` while they are made."""

    media_type = "text/event-stream"

    def __init__(self, work: Work, options: StreamOptions) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._work = work
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async with (
                self._work.lifecycle.request(receive),
                aclosing(events(self._work, self._options)) as stream,
            ):
                async for data in stream:
                    if not started:
                        started = True
                        await send(self._start())
                    await send(_part(data))
        except ClientGone:
            return
        except Exception as error:
            if not started:
                raise
            problem = problem_of(error)
            if problem is INTERNAL:
                log.exception("request %s failed after its first token", label_of(scope))
            await send(_part(event(problem.body())))
        await send(_part(DONE, more=False))

    def _start(self) -> Message:
        return {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }


def _part(data: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def whole_answer(work: Work, receive: Receive) -> Response:
    """Runs to the end, unless the client leaves first, and answers with one object."""
    latest: dict[int, RequestOutput] = {}

    def written() -> bytes:
        choices = choices_of(work.num_prompts, work.num_sequences)
        deltas = [c.advance(latest[c.prompt]) for each in choices for c in each]
        return msgspec.json.encode({**work.format.answer(deltas), "usage": usage(latest.values())})

    async with work.lifecycle.request(receive):  # which a server that drains waits for
        async with aclosing(await work.start()) as outputs:
            async for prompt, output in outputs:
                latest[prompt] = output
        body = await beside_others(written, _scored(latest.values()))
    return Response(body, media_type="application/json")


def _scored(outputs: Iterable[RequestOutput]) -> Iterator[Collection[object] | None]:
    for output in outputs:
        yield output.prompt_logprobs
        yield from (sequence.logprobs for sequence in output.outputs)
