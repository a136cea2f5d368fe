"""Outputs of the engine as the JSON of the two OpenAI APIs.

The engine's outputs are cumulative; a `Choice` remembers what was sent of one and gives the `Delta`
to send next. A whole answer is the delta from nothing, so streams and answers share all of this.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pdrt.request import CompletionOutput, RequestOutput, TokenLogprobs

Json = dict[str, Any]
Decode = Callable[[list[int]], str]


@dataclass(frozen=True, slots=True)
class Delta:
    """What one choice gained since the last chunk. `offset`: characters of text before it."""

    index: int
    is_first: bool
    offset: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    prompt_token_ids: list[int]
    finish_reason: str | None
    stop_reason: str | int | None

    @property
    def is_empty(self) -> bool:
        """Nothing to tell: an output that differs only in its metrics."""
        return not (self.token_ids or self.text or self.finish_reason)


@dataclass(slots=True)
class Choice:
    """How much of one choice was sent."""

    index: int
    num_chars: int = 0
    num_tokens: int = 0
    output: RequestOutput | None = None

    def advance(self, output: RequestOutput) -> Delta:
        whole: CompletionOutput = output.outputs[0]
        delta = Delta(
            index=self.index,
            is_first=self.num_tokens == 0,
            offset=self.num_chars,
            text=whole.text[self.num_chars :],
            token_ids=whole.token_ids[self.num_tokens :],
            logprobs=None if whole.logprobs is None else whole.logprobs[self.num_tokens :],
            prompt_token_ids=output.prompt_token_ids,
            finish_reason=whole.finish_reason,
            stop_reason=whole.stop_reason,
        )
        self.num_chars, self.num_tokens = len(whole.text), len(whole.token_ids)
        self.output = output
        return delta


def usage(outputs: Iterable[RequestOutput]) -> Json:
    """Token counts over all choices, as the engine counted them."""
    outputs = list(outputs)
    prompt = sum(len(o.prompt_token_ids) for o in outputs)
    completion = sum(len(o.outputs[0].token_ids) for o in outputs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(o.num_cached_tokens for o in outputs)},
    }


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of one answer have in common."""

    prefix: str
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def json(self, kind: str, choices: list[Json], **more: object) -> Json:
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }


class Format(Protocol):
    """One of the two APIs: a chunk of a stream, and a whole answer from one delta a choice."""

    def chunk(self, delta: Delta) -> Json: ...

    def last(self) -> Json:
        """A chunk without choices, for the usage."""
        ...

    def answer(self, deltas: list[Delta]) -> Json: ...


@dataclass(frozen=True, slots=True)
class CompletionFormat:
    """/v1/completions."""

    head: Head
    decode: Decode
    with_token_ids: bool

    def chunk(self, delta: Delta) -> Json:
        return self.head.json("text_completion", [self._choice(delta)])

    def last(self) -> Json:
        return self.head.json("text_completion", [])

    def answer(self, deltas: list[Delta]) -> Json:
        return self.head.json("text_completion", [self._choice(delta) for delta in deltas])

    def _choice(self, delta: Delta) -> Json:
        choice: Json = {
            "index": delta.index,
            "text": delta.text,
            "logprobs": self._logprobs(delta),
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
        }
        if self.with_token_ids:
            choice["token_ids"] = delta.token_ids
            choice["prompt_token_ids"] = delta.prompt_token_ids if delta.is_first else None
        return choice

    def _logprobs(self, delta: Delta) -> Json | None:
        if delta.logprobs is None:
            return None
        tokens = [self.decode([token]) for token in delta.token_ids]
        offsets, offset = [], delta.offset
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [_chosen(logprobs) for logprobs in delta.logprobs],
            "top_logprobs": None,
            "text_offset": offsets,
        }


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """/v1/chat/completions. The role comes with the first token, never in a chunk of its own."""

    head: Head
    decode: Decode
    with_token_ids: bool

    def chunk(self, delta: Delta) -> Json:
        message: Json = {"role": "assistant"} if delta.is_first else {}
        message["content"] = delta.text
        return self._with_prompt(
            delta, self.head.json("chat.completion.chunk", [self._choice(delta, delta=message)])
        )

    def last(self) -> Json:
        return self.head.json("chat.completion.chunk", [])

    def answer(self, deltas: list[Delta]) -> Json:
        choices = [
            self._choice(delta, message={"role": "assistant", "content": delta.text})
            for delta in deltas
        ]
        return self._with_prompt(deltas[0], self.head.json("chat.completion", choices))

    def _choice(self, gained: Delta, **content: Json) -> Json:
        choice: Json = {
            "index": gained.index,
            **content,
            "logprobs": self._logprobs(gained),
            "finish_reason": gained.finish_reason,
            "stop_reason": gained.stop_reason,
        }
        if self.with_token_ids:
            choice["token_ids"] = gained.token_ids
        return choice

    def _with_prompt(self, delta: Delta, body: Json) -> Json:
        if self.with_token_ids and delta.is_first:
            body["prompt_token_ids"] = delta.prompt_token_ids
        return body

    def _logprobs(self, delta: Delta) -> Json | None:
        if delta.logprobs is None:
            return None
        pairs = zip(delta.token_ids, map(_chosen, delta.logprobs), strict=True)
        return {"content": [self._token(self.decode([token]), value) for token, value in pairs]}

    def _token(self, text: str, logprob: float) -> Json:
        """`bytes` is None for a token that is only a part of a character."""
        whole = "\ufffd" not in text
        return {
            "token": text,
            "logprob": logprob,
            "bytes": list(text.encode()) if whole else None,
            "top_logprobs": [],
        }


def _chosen(logprobs: TokenLogprobs) -> float:
    return next(iter(logprobs.values())).logprob
