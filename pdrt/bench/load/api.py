"""The three ways to ask a server for tokens, and how their streams are counted.

    completions   OpenAI's /v1/completions; prompts may be token ids
    chat          OpenAI's /v1/chat/completions
    generate      SGLang's /generate

Every chunk is asked to carry the count of tokens so far (`continuous_usage_stats`; servers that do
not know it leave it out). Then a chunk with several tokens, or with one that has no text yet, is
counted as what it is. A server that tells the total only at the end is counted by chunks, and the
total says whether that was right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from pdrt.bench.load.records import Record
from pdrt.bench.load.sessions import History, Turn

Api = Literal["completions", "chat", "generate"]
Body = dict[str, Any]

FAILED_REASONS = ("abort", "error")  # finish reasons of what a server gave up

PATHS: Mapping[Api, str] = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "generate": "/generate",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A server and how to ask it.

    extra_body: fields added to every body; None as a value takes a field out.
    """

    base_url: str
    api: Api = "completions"
    model: str = ""
    ignore_eos: bool = True
    temperature: float = 0.0
    extra_body: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0  # seconds of one request

    @property
    def url(self) -> str:
        return self.base_url.rstrip("/") + PATHS[self.api]

    @property
    def ignores_eos(self) -> bool:
        """Whether answers must have the length asked for, once extra_body has had its say."""
        return self.ignore_eos and bool(self.extra_body.get("ignore_eos", True))


def body_of(target: Target, turn: Turn, history: History) -> bytes:
    """The JSON of one request."""
    body = {**_BODIES[target.api](target, turn, history), "stream": True, **target.extra_body}
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def _openai(target: Target, turn: Turn) -> Body:
    return {
        "model": target.model or None,
        "max_tokens": turn.output_tokens,
        "temperature": target.temperature,
        "ignore_eos": target.ignore_eos or None,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def _completions(target: Target, turn: Turn, history: History) -> Body:
    return {**_openai(target, turn), "prompt": history.prompt(turn)}


def _chat(target: Target, turn: Turn, history: History) -> Body:
    return {**_openai(target, turn), "messages": history.chat(turn)}


def _generate(target: Target, turn: Turn, history: History) -> Body:
    prompt = history.prompt(turn)
    return {
        "text" if isinstance(prompt, str) else "input_ids": prompt,
        "sampling_params": {
            "max_new_tokens": turn.output_tokens,
            "temperature": target.temperature,
            "ignore_eos": target.ignore_eos,
        },
    }


_BODIES: Mapping[Api, Callable[[Target, Turn, History], Body]] = {
    "completions": _completions,
    "chat": _chat,
    "generate": _generate,
}


class PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    text: str | None = None
    delta: Delta | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None


class Meta(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: Any = None  # an object with `type`, or text


class Event(msgspec.Struct):
    """One event of any of the three streams, as far as it is read."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None
    object: str | None = None
    message: str | None = None
    text: str | None = None  # generate: the whole text so far
    meta_info: Meta | None = None


_event = msgspec.json.Decoder(Event)


class Failure(Exception):
    """A request did not end as it should; the text is counted as the failure's name."""


def read_event(data: bytes, at: float, record: Record) -> None:
    """Adds what one event tells to the record; `at` is when it came.

    Raises:
        Failure: the server reports an error, or what it sent is no JSON.
    """
    try:
        event = _event.decode(data)
    except msgspec.MsgspecError as error:
        raise Failure(f"event is not of this API: {error}: {data[:80]!r}") from None
    if event.error is not None:
        raise Failure(f"error in the stream: {str(event.error)[:200]}")
    if event.object == "error":
        raise Failure(f"error in the stream: {event.message}")
    count = _read_meta(event, record) if event.meta_info else _read_choices(event, record)
    if count > 0:
        record.chunk_times.append(at)
        record.chunk_tokens.append(count)


def _read_choices(event: Event, record: Record) -> int:
    """Tokens that an OpenAI event brought."""
    text = ""
    ids: list[int] = []
    for choice in event.choices:
        delta = choice.delta or Delta()
        text += (choice.text or "") + (delta.content or "") + (delta.reasoning_content or "")
        ids += choice.token_ids or ()
        record.finish_reason = choice.finish_reason or record.finish_reason
    record.text += text
    record.token_ids += ids
    if event.usage is not None:
        told = _read_usage(event.usage, record)
        if told is not None and event.choices:
            record.counted = "usage"
            return told
        if told is not None:
            return 0  # the last word, which is compared with what was counted
    if ids:
        record.counted = "token ids"
        return len(ids)
    if text and record.counted in ("none", "chunks"):
        record.counted = "chunks"
        return 1
    return 0


def _read_usage(usage: Usage, record: Record) -> int | None:
    """Tokens beyond those counted so far; None where usage does not tell."""
    record.prompt_tokens = usage.prompt_tokens or record.prompt_tokens
    details = usage.prompt_tokens_details
    if details is not None and details.cached_tokens is not None:
        record.cached_tokens = details.cached_tokens
    if usage.completion_tokens is None:
        return None
    record.usage_tokens = usage.completion_tokens
    return usage.completion_tokens - record.seen_tokens


def _read_meta(event: Event, record: Record) -> int:
    """Tokens that an event of /generate brought; its text and counts are totals."""
    assert event.meta_info is not None
    meta = event.meta_info
    record.text = event.text or record.text
    reason = meta.finish_reason
    if reason is not None:
        record.finish_reason = reason["type"] if isinstance(reason, dict) else str(reason)
    record.counted = "usage"
    details = PromptDetails(meta.cached_tokens)
    return _read_usage(Usage(meta.prompt_tokens, meta.completion_tokens, details), record) or 0


def check_end(record: Record, is_done: bool) -> None:
    """What a stream must have brought by its end; `is_done`: [DONE] came.

    Raises:
        Failure: the server gave the request up, sent no token, or broke off.
    """
    if record.finish_reason in FAILED_REASONS:
        raise Failure(f"the server ended it: finish reason {record.finish_reason!r}")
    if not record.chunk_times:
        raise Failure("the stream had no token")
    if not is_done and record.finish_reason is None:
        raise Failure("the stream broke off: no finish reason, no [DONE]")
