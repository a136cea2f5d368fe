"""From a request's updates to what its reader sees: text, stop strings, metrics.

    router thread --Update--> Mailbox --drain--> RequestStream --RequestOutput--> reader

A mailbox is written in the router's thread and emptied in the reader's; a reader that is slow finds
several updates and sees them as one output, so what waits for it is bounded by its own tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from pdrt.records import Update
from pdrt.request import CompletionOutput, Logprob, Request, RequestMetrics, RequestOutput
from pdrt.tokenizer import TextStream, Tokenizer


class Mailbox:
    """Updates of one request on their way to its reader. `wake` is called after each."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._updates: list[Update] = []

    def __call__(self, update: Update) -> None:
        with self._lock:
            self._updates.append(update)
        self._wake()

    def drain(self) -> list[Update]:
        with self._lock:
            updates, self._updates = self._updates, []
        return updates


class RequestStream:
    """Builds the cumulative output of one request. Lives in its reader's thread."""

    def __init__(self, request: Request, tokenizer: Tokenizer, arrival_time: float) -> None:
        self._request = request
        self._text = TextStream(tokenizer, request.params.stop, request.prompt_token_ids)
        self._arrival_time = arrival_time
        wants_logprobs = request.params.logprobs is not None
        self._output = CompletionOutput(0, "", [], logprobs=[] if wants_logprobs else None)
        self._result = RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=list(request.prompt_token_ids),
            outputs=[self._output],
            finished=False,
            metrics=RequestMetrics(arrival_time),
        )

    @property
    def request_id(self) -> str:
        return self._request.request_id

    @property
    def finished(self) -> bool:
        return self._result.finished

    def feed(self, update: Update) -> None:
        """Takes an update. What comes after the end (a stop string was found) is dropped.

        Raises:
            PdrtError: the one that ended the request.
        """
        if self._result.finished:
            return
        for i, token in enumerate(update.token_ids):
            self._output.token_ids.append(token)
            if self._output.logprobs is not None:
                self._output.logprobs.append({token: Logprob(update.logprobs[i])})
            self._output.text += self._text.push(token)
            if self._text.stopped is not None:
                self._finish("stop", self._text.stopped)
                break
        self._measure(update)
        if update.error is not None:
            raise update.error
        if update.finish_reason is not None and not self._result.finished:
            self._output.text += self._text.finish()
            stopped = self._text.stopped
            self._finish("stop" if stopped is not None else update.finish_reason, stopped)

    def snapshot(self) -> RequestOutput:
        """The output so far; later updates do not change it."""
        logprobs = self._output.logprobs
        output = replace(
            self._output,
            token_ids=list(self._output.token_ids),
            logprobs=None if logprobs is None else list(logprobs),
        )
        return replace(self._result, outputs=[output], metrics=replace(self._result.metrics))

    def _finish(self, reason: str, stop_reason: str | None) -> None:
        self._output.finish_reason = reason
        self._output.stop_reason = stop_reason
        self._result.finished = True

    def _measure(self, update: Update) -> None:
        """Times of the slot's first passing of each point; CLOCK_MONOTONIC, as arrival_time."""
        if update.times is None:
            return
        t, metrics = update.times, self._result.metrics
        self._result.num_cached_tokens = update.num_cached_tokens

        def between(start: float, end: float) -> float | None:
            return max(0.0, end - start) if start and end else None

        metrics.queue_time = between(self._arrival_time, t.admitted)
        metrics.prefill_time = between(t.admitted, t.sealed or t.finished)
        metrics.handoff_time = between(t.sealed, t.taken)
        metrics.decode_time = between(t.taken, t.finished)
        metrics.first_token_time = t.sealed or t.finished or None
        metrics.finished_time = t.finished or None
