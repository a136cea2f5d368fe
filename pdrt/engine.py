"""pdrt.Engine: the Python API, and what the HTTP server is a client of.

    caller's threads and loops  --submit-->   engine's thread: an event loop   --frames-->  workers
                                <--Mailbox--  with FrontEnd and Router         <--frames--

The engine has one thread of its own, so it can be used from scripts, notebooks and any event loop.
It installs no signal handlers. Its processes end with it: at `shutdown`, at the end of a `with`
block, when the engine is garbage-collected, and when the interpreter exits or is killed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import time
import uuid
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Literal, overload

from pdrt.background import Doorbell, LoopThread, start_front_end
from pdrt.chat_template import ChatOptions
from pdrt.config import Settings, as_settings
from pdrt.errors import EngineDead
from pdrt.frontend import FrontEnd
from pdrt.inputs import (
    BadWords,
    Conversation,
    Params,
    ParamsForEach,
    Prompt,
    Prompts,
    as_conversations,
    as_messages,
    as_pairs,
    text_or_ids,
)
from pdrt.metrics import EngineStats
from pdrt.request import Limits, Request, RequestOutput, derived_seed, validate
from pdrt.sampling_params import SamplingParams
from pdrt.startup import make_plan
from pdrt.stats import Health, engine_stats, health, startup_summary
from pdrt.stream import RequestStream
from pdrt.tokenizer import Tokenizer


class Engine:
    """A model served by a keeper, prefill and decode processes of its own.

    Args:
        model: a folder in Hugging Face layout, a GGUF file, a name on the hub, or "" for the
            default model; or a whole pdrt.config.Settings.
        **settings: fields of Settings.

    Raises:
        ConfigError, ModelError, MemoryShortage: before any process is started.
        EngineDead: a process could not start.
    """

    def __init__(self, model: str | os.PathLike[str] | Settings = "", **settings: object) -> None:
        self.settings = as_settings(model, settings)
        self.plan = make_plan(self.settings)
        self.tokenizer = Tokenizer(self.plan.folder, self.settings.chat_template)
        spec, server = self.plan.spec, self.plan.server
        most = self.settings.max_queued_requests
        self.limits = Limits(spec.vocab_size, server.max_model_len, server.num_slots, most)
        self._numbers = itertools.count(1)  # of requests, whichever thread makes them
        self._bell: Doorbell | None = None
        self._bad_words = BadWords(self.tokenizer.encode, self.limits.vocab_size)
        self._thread, self._front = start_front_end(server, most)
        self._finalizer = weakref.finalize(self, _stop, self._thread, self._front)

    @overload
    def generate(
        self,
        prompts: Prompts,
        sampling_params: ParamsForEach = None,
        stream: Literal[False] = False,
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Prompts,
        sampling_params: ParamsForEach = None,
        *,
        stream: Literal[True],
    ) -> Iterator[RequestOutput]: ...

    def generate(
        self,
        prompts: Prompts,
        sampling_params: ParamsForEach = None,
        stream: bool = False,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """Runs prompts (texts or lists of token ids) to their end, all at once.

        Args:
            sampling_params: one for all prompts, or a list with one for each.
            stream: give an iterator of outputs as tokens arrive, of all prompts mixed; leaving it
                early aborts what still runs.

        Returns:
            One finished output for each prompt, in their order.

        Raises:
            InvalidRequest, Overloaded, EngineDead: all prompts of this call are ended then.
        """
        requests = [
            self._request(prompt, params) for prompt, params in as_pairs(prompts, sampling_params)
        ]
        streams = self._streams(requests)
        if stream:
            return (each.snapshot() for each in streams)
        finished = {each.request_id: each for each in streams if each.finished}
        return [finished[request.request_id].snapshot() for request in requests]

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: ParamsForEach = None,
    ) -> list[RequestOutput]:
        """One answer to each conversation: [{"role": "user", "content": "..."}, ...], or several.

        Raises:
            InvalidRequest: the model has no chat template, or the template refuses the messages.
        """
        prompts = [self.encode_chat(each) for each in as_conversations(messages)]
        return self.generate(prompts, sampling_params)

    def encode_chat(self, messages: Conversation, options: ChatOptions | None = None) -> list[int]:
        """Token ids of a conversation, as the model's chat template writes it."""
        text = self.tokenizer.apply_chat_template(as_messages(messages), options)
        return self.tokenizer.encode(text, add_special_tokens=False)

    async def async_generate(
        self, prompt: Prompt, sampling_params: Params = None, request_id: str | None = None
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yields the cumulative output of one prompt; the last has `finished` set.

        A slow reader sees several tokens at once. Closing or cancelling the iterator aborts.
        """
        request = self._request(prompt, SamplingParams.of(sampling_params), request_id)
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        stream = RequestStream(
            request, self.tokenizer, time.monotonic(), partial(self._doorbell(loop).ring, news.set)
        )
        try:
            await asyncio.wrap_future(self._thread.call(stream.submit, self._front))
            while not stream.finished:
                await news.wait()
                news.clear()
                while self._read(stream):  # more than is read at once: its reader was away
                    await asyncio.sleep(0)
                yield stream.snapshot()
        finally:
            self._thread.call(stream.leave, self._front)

    def _doorbell(self, loop: asyncio.AbstractEventLoop) -> Doorbell:
        """One for all requests that are read in a loop, as long as no other loop comes between."""
        bell = self._bell  # another thread, with a loop of its own, may put its bell there
        if bell is None or bell.loop is not loop:
            bell = self._bell = Doorbell(loop)
        return bell

    def abort(self, request_id: str) -> None:
        """Ends a request; its reader gets the finish reason "abort". Unknown ids are ignored."""
        self._thread.call(self._front.abort, request_id)

    @property
    def model_name(self) -> str:
        """The model's folder or file, without its path; the default model's name."""
        return self.plan.model_name

    def metrics(self) -> EngineStats:
        """Pages by state, queues and counters at this moment."""
        return self._thread.call(engine_stats, self._front).result()

    def health(self) -> Health:
        return health(self._front)

    def startup_summary(self) -> dict[str, object]:
        """What runs: model, sizes, processes with their pids and threads."""
        return startup_summary(self.settings, self.plan, self._front)

    def shutdown(self) -> None:
        """Ends all processes; requests that still run get an EngineDead. Idempotent."""
        self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _request(
        self, prompt: Prompt, params: SamplingParams, request_id: str | None = None
    ) -> Request:
        given = text_or_ids(prompt)
        text = given if isinstance(given, str) else None
        ids = self.tokenizer.encode(given) if isinstance(given, str) else given
        seed = derived_seed(self.settings.seed, next(self._numbers))
        name = request_id or f"req-{uuid.uuid4().hex}"
        bad_words = self._bad_words.ids(params.bad_words)
        return validate(name, text, ids, params, self.limits, seed, bad_words)

    def _streams(self, requests: Sequence[Request]) -> Iterator[RequestStream]:
        """Submits the requests and yields whichever has news; whatever ends it ends all of them."""
        ready: queue.SimpleQueue[int] = queue.SimpleQueue()
        now = time.monotonic()
        streams = [
            RequestStream(request, self.tokenizer, now, partial(ready.put, i))
            for i, request in enumerate(requests)
        ]
        waiting, num_running, room = deque(streams), 0, self.settings.max_queued_requests
        try:
            while waiting or num_running:
                # However many there are, no more than may wait: the rest as others end.
                while waiting and (
                    not num_running or num_running + waiting[0].num_sequences <= room
                ):
                    self._thread.call(waiting[0].submit, self._front).result()
                    num_running += waiting.popleft().num_sequences
                stream = streams[ready.get()]
                if stream.finished:
                    continue  # this news was read with the news before it
                self._read(stream)
                if stream.finished:
                    num_running -= stream.num_sequences
                yield stream
        finally:
            for stream in streams:
                self._thread.call(stream.leave, self._front)

    def _read(self, stream: RequestStream) -> bool:
        """Takes what has come, and ends what a stop string has ended; True where there is more."""
        if stream.read():
            self._thread.call(stream.leave_ended, self._front)
        return stream.has_news and not stream.finished


def _stop(thread: LoopThread, front: FrontEnd) -> None:
    """What `shutdown`, garbage collection and the interpreter's exit have in common."""
    if thread.is_ours:
        thread.stop(partial(front.stop, EngineDead("the engine was shut down")))
