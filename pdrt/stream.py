"""From a request's updates to what its reader sees: text, stop strings, log-probabilities, times.

    router thread --Update--> Mailbox --drain--> RequestStream --RequestOutput--> reader

A mailbox is written in the router's thread and emptied in the reader's; a reader that is slow finds
several updates and sees them as one output, so what waits for it is bounded by its own tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from pdrt.request import (
    CompletionOutput,
    Request,
    RequestMetrics,
    RequestOutput,
    sequences,
)
from pdrt.tokenizer import TextStream, Tokenizer
from pdrt.updates import Sink, Update, measured, token_logprobs

UPDATES_AT_ONCE = 256  # read in one go: some milliseconds, where they have logprobs


class Front(Protocol):
    """Where requests are submitted; only in its own thread."""

    def submit(self, request: Request, sink: Sink) -> None: ...

    def abort(self, request_id: str, sink: Sink | None = None) -> bool: ...


class Mailbox:
    """Updates of a request's sequences on their way to its reader; `wake` is called after each."""

    def __init__(self, wake: Callable[[], object], num_sequences: int) -> None:
        self._wake = wake
        self._updates: deque[tuple[int, Update]] = deque()  # needs no lock at its two ends
        self.sinks: list[Sink] = [partial(self._put, i) for i in range(num_sequences)]

    def _put(self, index: int, update: Update) -> None:
        self._updates.append((index, update))
        self._wake()

    @property
    def is_empty(self) -> bool:
        return not self._updates

    def drain(self) -> Iterator[tuple[int, Update]]:
        """What has come, but not so much that reading it takes long."""
        for _ in range(min(UPDATES_AT_ONCE, len(self._updates))):
            yield self._updates.popleft()


class SequenceStream:
    """Builds the cumulative output of one sequence.

    Attributes:
        left: it ended here, by a stop string; the workers are still to be told.
    """

    def __init__(self, request: Request, index: int, tokenizer: Tokenizer) -> None:
        params = request.params
        self._params = params
        self._text = TextStream(
            tokenizer, params.stop, request.prompt_token_ids, min_tokens=params.min_tokens
        )
        self.left = False
        self.output = CompletionOutput(
            index, "", [], logprobs=None if params.logprobs is None else []
        )

    @property
    def finished(self) -> bool:
        return self.output.finish_reason is not None

    def feed(self, update: Update) -> None:
        """Takes an update. What comes after a stop string was found is dropped."""
        scored = None if update.scores is None else token_logprobs(update.token_ids, update.scores)
        for token, logprob in zip(update.token_ids, update.logprobs, strict=True):
            self._push(token, logprob)
            if self.output.logprobs is not None and scored is not None:
                self.output.logprobs.append(next(scored))
            if self._text.stopped is not None:
                self._finish("stop")
                self.left = not update.is_last
                return
        if update.finish_reason is not None:
            self.output.text += self._text.finish()
            self._finish(update.finish_reason if self._text.stopped is None else "stop")

    def snapshot(self) -> CompletionOutput:
        """The output so far; later updates do not change it."""
        now = self.output
        return CompletionOutput(  # a third of what dataclasses.replace takes, for each token
            now.index,
            now.text,
            list(now.token_ids),
            now.cumulative_logprob,
            None if now.logprobs is None else list(now.logprobs),
            now.finish_reason,
            now.stop_reason,
        )

    def _push(self, token: int, logprob: float) -> None:
        self.output.token_ids.append(token)
        self.output.cumulative_logprob += logprob
        if token in self._params.stop_token_ids:  # none is sampled before min_tokens
            self.output.stop_reason = token
        else:
            self.output.text += self._text.push(token)

    def _finish(self, reason: str) -> None:
        self.output.finish_reason = reason
        if self._text.stopped is not None:
            self.output.stop_reason = self._text.stopped


class RequestStream:
    """Builds the cumulative output of one request. Lives in its reader's thread."""

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        arrival_time: float,
        wake: Callable[[], object],
    ) -> None:
        self._requests = sequences(request)
        self._sequences = [
            SequenceStream(each, i, tokenizer) for i, each in enumerate(self._requests)
        ]
        self._mailbox = Mailbox(wake, len(self._requests))
        self._result = RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=list(request.prompt_token_ids),
            outputs=[],
            finished=False,
            metrics=RequestMetrics(arrival_time),
        )

    @property
    def request_id(self) -> str:
        return self._result.request_id

    @property
    def num_sequences(self) -> int:
        return len(self._sequences)

    @property
    def finished(self) -> bool:
        return self._result.finished

    @property
    def has_news(self) -> bool:
        """More has come than one `read` takes."""
        return not self._mailbox.is_empty

    def submit(self, front: Front) -> None:
        """Raises what `front` raises; sequences that were taken before go on until `leave`."""
        for request, sink in zip(self._requests, self._mailbox.sinks, strict=True):
            front.submit(request, sink)

    def leave(self, front: Front) -> None:
        """Aborts what still runs; nothing, where all has ended or was refused."""
        for request, sink in zip(self._requests, self._mailbox.sinks, strict=True):
            front.abort(request.request_id, sink)

    def read(self) -> bool:
        """Takes what has come. True where a sequence ended here: `leave_ended` is to be called.

        Raises:
            PdrtError: the one that ended a sequence, and with it the request.
        """
        for index, update in self._mailbox.drain():
            sequence = self._sequences[index]
            if not sequence.finished:
                sequence.feed(update)
            if index == 0:
                self._measure(update)
            if update.error is not None:
                raise update.error
        self._result.finished = all(sequence.finished for sequence in self._sequences)
        return any(sequence.left for sequence in self._sequences)

    def leave_ended(self, front: Front) -> None:
        """Aborts the sequences that ended here by a stop string."""
        for i, sequence in enumerate(self._sequences):
            if sequence.left:
                front.abort(self._requests[i].request_id, self._mailbox.sinks[i])
                sequence.left = False

    def snapshot(self) -> RequestOutput:
        """The output so far; later updates do not change it."""
        now = self._result
        return RequestOutput(
            now.request_id,
            now.prompt,
            now.prompt_token_ids,
            [sequence.snapshot() for sequence in self._sequences],
            now.finished,
            now.metrics,
            now.num_cached_tokens,
            now.prompt_logprobs,
        )

    def _measure(self, update: Update) -> None:
        """What an update of the first sequence says of the request as a whole."""
        metrics = self._result.metrics
        if update.times is not None and (update.is_last or metrics.handoff_time is None):
            self._result.num_cached_tokens = update.num_cached_tokens
            self._result.metrics = measured(update.times, metrics.arrival_time)
        if update.prompt_scores is not None:
            prompt = self._result.prompt_token_ids
            self._result.prompt_logprobs = [
                None,
                *token_logprobs(prompt[1:], update.prompt_scores),
            ]
