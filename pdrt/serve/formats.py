"""Outputs of the engine as the JSON of the two OpenAI APIs.

The engine's outputs are cumulative; a `Choice` remembers what was sent of one and gives the `Delta`
to send next. A whole answer is the delta from nothing, so streams and answers share all of this.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from pdrt.request import CompletionOutput, RequestOutput, TokenLogprobs
from pdrt.serve.logprobs import Offsets, chat_logprobs, completion_logprobs, prompt_logprobs
from pdrt.tokenizer import Tokenizer

Json = dict[str, Any]


class Delta(msgspec.Struct, frozen=True):
    """What one choice gained since the last chunk; `output` is what it belongs to."""

    index: int
    prompt: int
    is_first: bool
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    finish_reason: str | None
    stop_reason: str | int | None
    output: RequestOutput

    @property
    def is_empty(self) -> bool:
        """Nothing to tell: an output that differs only in its metrics, or in other sequences."""
        return not (self.token_ids or self.text or self.finish_reason)


@dataclass(slots=True)
class Choice:
    """How much of one choice was sent: sequence `sequence` of prompt `prompt`."""

    index: int
    prompt: int = 0
    sequence: int = 0
    num_chars: int = 0
    num_tokens: int = 0
    is_done: bool = False

    def advance(self, output: RequestOutput) -> Delta:
        whole: CompletionOutput = output.outputs[self.sequence]
        delta = Delta(
            index=self.index,
            prompt=self.prompt,
            is_first=self.num_tokens == 0,
            text=whole.text[self.num_chars :],
            token_ids=whole.token_ids[self.num_tokens :],
            logprobs=None if whole.logprobs is None else whole.logprobs[self.num_tokens :],
            finish_reason=None if self.is_done else whole.finish_reason,
            stop_reason=whole.stop_reason,
            output=output,
        )
        self.num_chars, self.num_tokens = len(whole.text), len(whole.token_ids)
        self.is_done = whole.finish_reason is not None
        return delta


def choices_of(num_prompts: int, num_sequences: int) -> list[list[Choice]]:
    """For each prompt the choices of its sequences; numbered through, as the APIs do."""
    return [
        [Choice(prompt * num_sequences + i, prompt, i) for i in range(num_sequences)]
        for prompt in range(num_prompts)
    ]


def usage(outputs: Iterable[RequestOutput]) -> Json:
    """Token counts as the engine has them; a prompt counts once, however many sequences it has."""
    prompt = completion = cached = 0
    for output in outputs:
        prompt += len(output.prompt_token_ids)
        cached += output.num_cached_tokens
        completion += sum([len(sequence.token_ids) for sequence in output.outputs])
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of one answer have in common."""

    prefix: str
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def json(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


class Format(Protocol):
    """One of the two APIs: a chunk of a stream, and a whole answer from one delta a choice."""

    def chunk(self, delta: Delta) -> Json: ...

    def last(self) -> Json:
        """A chunk without choices, for the usage."""

    def answer(self, deltas: list[Delta]) -> Json: ...


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an answer has beside its text. logprobs: how many of the likeliest tokens, or None."""

    token_ids: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class CompletionFormat:
    """/v1/completions.

    echoes: where choices are to begin with their prompt, its text; None where it came as token ids.
    """

    head: Head
    tokenizer: Tokenizer
    wishes: Wishes = Wishes()
    echoes: Sequence[str | None] | None = None
    _offsets: dict[int, Offsets] = field(default_factory=dict)  # by choice

    def chunk(self, delta: Delta) -> Json:
        return self.head.json("text_completion", [self._choice(delta)])

    def last(self) -> Json:
        return self.head.json("text_completion", [])

    def answer(self, deltas: list[Delta]) -> Json:
        return self.head.json("text_completion", [self._choice(delta) for delta in deltas])

    def _choice(self, delta: Delta) -> Json:
        echo = self._echo(delta)
        choice: Json = {
            "index": delta.index,
            "text": echo + delta.text,
            "logprobs": self._logprobs(delta, echo),
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
        }
        if self.wishes.prompt_logprobs:
            choice["prompt_logprobs"] = _prompt_logprobs(self.tokenizer, delta)
        if self.wishes.token_ids:
            choice["token_ids"] = delta.token_ids
            choice["prompt_token_ids"] = delta.output.prompt_token_ids if delta.is_first else None
        return choice

    def _echo(self, delta: Delta) -> str:
        if not self.echoes or not delta.is_first:
            return ""
        given = self.echoes[delta.prompt]
        return self.tokenizer.decode(delta.output.prompt_token_ids) if given is None else given

    def _logprobs(self, delta: Delta, echo: str) -> Json | None:
        if delta.logprobs is None or self.wishes.logprobs is None:
            return None
        prompt, offsets = delta.output.prompt_token_ids, self._offsets
        tokens: list[int] = list(delta.token_ids)
        values: list[TokenLogprobs | None] = list(delta.logprobs)
        begins: list[int] = []
        if delta.is_first:
            offsets[delta.index] = Offsets(self.tokenizer, () if self.echoes else prompt)
        if delta.is_first and self.echoes:
            tokens, values = prompt + tokens, (delta.output.prompt_logprobs or []) + values
            begins = offsets[delta.index].of(prompt)
            offsets[delta.index].offset = len(echo)
        return {
            **completion_logprobs(self.tokenizer, tokens, values, self.wishes.logprobs),
            "text_offset": begins + offsets[delta.index].of(delta.token_ids),
        }


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """/v1/chat/completions. The role comes with the first token, never in a chunk of its own."""

    head: Head
    tokenizer: Tokenizer
    wishes: Wishes = Wishes()

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
        if self.wishes.token_ids:
            choice["token_ids"] = gained.token_ids
        return choice

    def _with_prompt(self, delta: Delta, body: Json) -> Json:
        if self.wishes.token_ids and delta.is_first:
            body["prompt_token_ids"] = delta.output.prompt_token_ids
        if self.wishes.prompt_logprobs:
            body["prompt_logprobs"] = _prompt_logprobs(self.tokenizer, delta)
        return body

    def _logprobs(self, delta: Delta) -> Json | None:
        if delta.logprobs is None or self.wishes.logprobs is None:
            return None
        return {"content": chat_logprobs(self.tokenizer, delta.logprobs, self.wishes.logprobs)}


def _prompt_logprobs(tokenizer: Tokenizer, delta: Delta) -> list[Json | None] | None:
    """Once for each choice, with its first token."""
    values = delta.output.prompt_logprobs
    return prompt_logprobs(tokenizer, values) if delta.is_first and values is not None else None
