"""From a checked body to the engine's outputs: one stream of (index, output) for all prompts.

A prompt is one request of the engine, with all its sequences. Closing the stream aborts all that
still run; each request is counted in the metrics exactly once, however it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from pdrt.engine import Engine
from pdrt.errors import InvalidRequest, Overloaded, PdrtError
from pdrt.metrics import RequestHistory
from pdrt.request import CompletionOutput, RequestMetrics, RequestOutput, check_room
from pdrt.sampling_params import SamplingParams, check

# Few, as a text of 8 MB takes a GB until it is encoded.
_ENCODERS = ThreadPoolExecutor(2, "pdrt encoder")
INLINE_CHARS = 4096  # texts up to this size are encoded at once, in well under a millisecond
Outputs = AsyncGenerator[tuple[int, RequestOutput], None]
_News = tuple[int, RequestOutput] | Exception | None  # of one stream; the last two end it


@dataclass(frozen=True, slots=True)
class Job:
    """What one HTTP request asks of the engine.

    encode: gives its prompts as token ids. prompt_only: what is generated is dropped.
    """

    encode: Callable[[], list[list[int]]]
    num_chars: int
    num_prompts: int
    params: SamplingParams
    prompt_only: bool = False


async def outputs(engine: Engine, history: RequestHistory, job: Job) -> Outputs:
    """Cumulative outputs of all prompts, each with the index of its prompt.

    Nothing is submitted before they are read. Reading them raises InvalidRequest, Overloaded or
    EngineDead of any prompt; the others are aborted then.

    Raises:
        InvalidRequest: the parameters are wrong, or there are more sequences than may ever wait.
    """
    check(job.params, engine.limits.vocab_size)
    check_room(job.num_prompts, job.params.n, engine.limits)
    if job.num_chars <= INLINE_CHARS:
        prompts = job.encode()
    else:  # megabytes take seconds, in which other clients' tokens must flow
        prompts = await asyncio.get_running_loop().run_in_executor(_ENCODERS, job.encode)
    streams = [
        _observed(i, engine.async_generate(prompt, job.params), history, job.prompt_only)
        for i, prompt in enumerate(prompts)
    ]
    return streams[0] if len(streams) == 1 else _merged(streams)


def _without_tokens(output: RequestOutput) -> RequestOutput:
    """The output as if no token had been generated, which is what ended it."""
    sequences = [
        replace(
            each,
            text="",
            token_ids=[],
            cumulative_logprob=0.0,
            logprobs=None if each.logprobs is None else [],
            finish_reason=each.finish_reason and "length",
            stop_reason=None,
        )
        for each in output.outputs
    ]
    return replace(output, outputs=sequences)


async def _observed(
    index: int,
    stream: AsyncGenerator[RequestOutput, None],
    history: RequestHistory,
    prompt_only: bool,
) -> Outputs:
    """Passes outputs of one prompt on and counts them."""
    seen = _Seen(history)
    async with aclosing(stream):
        try:
            async for output in stream:
                seen.output(output)
                yield index, _without_tokens(output) if prompt_only else output
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
    """What the metrics learn of one request. Times are those at which the front end has tokens.

    A request of several sequences ends when all have, for the reason that its reader cares about
    most: an abort, before a text that was cut off, before those that came to their own end.
    """

    history: RequestHistory
    reason: str | None = "abort"  # when nothing else is seen before the end; None: refused
    counts: dict[int, int] = field(default_factory=dict)  # tokens of each sequence
    times: dict[int, float] = field(default_factory=dict)  # of each sequence's last token
    metrics: RequestMetrics | None = None

    def output(self, output: RequestOutput) -> None:
        now = time.monotonic()
        if not self.times and any(each.token_ids for each in output.outputs):
            self.history.started(len(output.prompt_token_ids), now - output.metrics.arrival_time)
        for each in output.outputs:
            self._sequence(each, now)
        self.metrics = output.metrics
        if output.finished:
            reasons = {each.finish_reason for each in output.outputs}
            self.reason = next((r for r in ("abort", "length") if r in reasons), "stop")

    def _sequence(self, sequence: CompletionOutput, now: float) -> None:
        index, count = sequence.index, len(sequence.token_ids)
        new = count - self.counts.get(index, 0)
        if new:
            last = self.times.get(index)
            self.history.tokens(new, None if last is None else now - last)
            self.counts[index], self.times[index] = count, now

    def end(self) -> None:
        if self.reason is not None:
            self.history.finished(self.reason, self.metrics, time.monotonic())


async def _merged(streams: Sequence[Outputs]) -> Outputs:
    """Takes from all streams at once. A reader that is slow holds back each of them."""
    queue: asyncio.Queue[_News] = asyncio.Queue(maxsize=1)
    pumps = [asyncio.create_task(_pump(each, queue)) for each in streams]
    try:
        running = len(pumps)
        while running:
            news = await queue.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                running -= 1
            else:
                yield news
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(stream: Outputs, queue: asyncio.Queue[_News]) -> None:
    """One stream into the queue: its outputs, then None or the exception that ended it."""
    try:
        async with aclosing(stream):
            async for output in stream:
                await queue.put(output)
    except Exception as error:
        await queue.put(error)
    else:
        await queue.put(None)
