"""From a checked body to the engine's outputs: one stream of (index, output) for all prompts.

A choice of the answer is one request of the engine. Closing the stream aborts all that still run;
each one is counted in the metrics exactly once, however it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from pdrt.engine import Engine
from pdrt.errors import InvalidRequest, Overloaded, PdrtError
from pdrt.metrics import RequestHistory
from pdrt.request import RequestMetrics, RequestOutput
from pdrt.sampling_params import SamplingParams

INLINE_CHARS = 4096  # texts up to this size are encoded at once, in well under a millisecond


@dataclass(frozen=True, slots=True)
class Job:
    """What one HTTP request asks of the engine: `encode` gives its prompts as token ids."""

    encode: Callable[[], list[list[int]]]
    num_chars: int
    num_prompts: int
    params: SamplingParams


async def outputs(
    engine: Engine, history: RequestHistory, job: Job
) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """Cumulative outputs of all prompts, each with the index of its prompt.

    Raises:
        InvalidRequest, Overloaded, EngineDead: of any prompt; the others are aborted.
    """
    if job.num_chars <= INLINE_CHARS:
        prompts = job.encode()
    else:  # megabytes take seconds, in which other clients' tokens must flow
        prompts = await asyncio.to_thread(job.encode)
    streams = [_observed(engine.async_generate(p, job.params), history) for p in prompts]
    async with aclosing(_merged(streams)) as merged:
        async for item in merged:
            yield item


async def _observed(
    stream: AsyncGenerator[RequestOutput, None], history: RequestHistory
) -> AsyncGenerator[RequestOutput, None]:
    """Passes outputs on and counts them."""
    seen = _Seen(history)
    async with aclosing(stream):
        try:
            async for output in stream:
                seen.output(output)
                yield output
        except (InvalidRequest, Overloaded):
            seen.reason = None
            raise
        except PdrtError:
            seen.reason = "error"
            raise
        finally:
            seen.end()


@dataclass(slots=True)
class _Seen:
    """What the metrics learn of one request. Times are those at which the front end has tokens."""

    history: RequestHistory
    reason: str | None = "abort"  # when nothing else is seen before the end; None: refused
    count: int = 0
    last: float | None = None
    metrics: RequestMetrics | None = None

    def output(self, output: RequestOutput) -> None:
        now, first = time.monotonic(), output.outputs[0]
        new, self.count = len(first.token_ids) - self.count, len(first.token_ids)
        if new and self.last is None:
            self.history.started(len(output.prompt_token_ids), now - output.metrics.arrival_time)
        if new:
            self.history.tokens(new, None if self.last is None else now - self.last)
            self.last = now
        self.metrics = output.metrics
        self.reason = first.finish_reason or self.reason

    def end(self) -> None:
        if self.reason is not None:
            self.history.finished(self.reason, self.metrics, time.monotonic())


async def _merged(
    streams: Sequence[AsyncGenerator[RequestOutput, None]],
) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """Takes from all streams at once. A reader that is slow holds back each of them."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for output in only:
                yield 0, output
        return
    queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]] = asyncio.Queue(maxsize=1)
    pumps = [asyncio.create_task(_pump(i, s, queue)) for i, s in enumerate(streams)]
    try:
        running = len(pumps)
        while running:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield index, item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    index: int,
    stream: AsyncGenerator[RequestOutput, None],
    queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]],
) -> None:
    """One stream into the queue: its outputs, then None or the exception that ended it."""
    try:
        async with aclosing(stream):
            async for output in stream:
                await queue.put((index, output))
    except Exception as error:
        await queue.put((index, error))
    else:
        await queue.put((index, None))
