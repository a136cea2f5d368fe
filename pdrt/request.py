"""What a user asks for and what comes back, with vLLM's names; and the one validation function.

Every entrance (Engine.generate, chat, HTTP) calls `validate`; nothing behind it checks again.
Runs in the front end; touches no tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from pdrt.errors import InvalidRequest

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256  # characters
MAX_SEED = 2**63 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to choose output tokens. Field names and defaults are vLLM's.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: keep the smallest set of tokens whose probabilities add up to it; in (0, 1].
        top_k: keep this many of the likeliest tokens; 0 or -1 keeps all.
        seed: chosen by the engine when None. Equal seeds give equal tokens, whatever else runs.
        max_tokens: at most this many output tokens; None is up to the context's end.
        stop: strings that end the request; they are not part of the text.
        ignore_eos: go on after an end-of-sequence token.
        logprobs: None, or 0 for the log-probability of each chosen token.
        priority: smaller runs earlier; ties are first come, first served.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int | None = 16
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    priority: int = 0

    @classmethod
    def of(cls, value: SamplingParams | dict[str, object] | None) -> SamplingParams:
        """Accepts what Engine.generate accepts: params, a dict of their fields, or None."""
        if isinstance(value, SamplingParams):
            return value
        fields = dict(value or {})
        if isinstance(fields.get("stop"), str):
            fields["stop"] = (fields["stop"],)
        if fields.get("stop", ()) is None:
            fields["stop"] = ()
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise InvalidRequest(
                f"sampling parameters: {error}", param=_param(str(error))
            ) from None


class SlotParams(msgspec.Struct, frozen=True):
    """The part of SamplingParams that workers need, resolved; lives in the request's slot."""

    temperature: float
    top_p: float
    top_k: int
    seed: int
    ignore_eos: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request is validated against."""

    vocab_size: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request. `max_tokens` and `seed` are resolved; `prompt` is None for token ids."""

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    max_tokens: int
    seed: int


@dataclass(slots=True)
class RequestMetrics:
    """Seconds spent in each part of a request's life; None until it has passed.

    queue: arrival to admission by prefill. prefill: to the first token. handoff: from there until
    decode has taken the request. decode: from there to the last token.
    """

    arrival_time: float
    queue_time: float | None = None
    prefill_time: float | None = None
    handoff_time: float | None = None
    decode_time: float | None = None
    first_token_time: float | None = None
    finished_time: float | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One generated sequence. `finish_reason`: "stop", "length", "abort", None while running."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[float] | None = None
    finish_reason: str | None = None
    stop_reason: str | None = None


@dataclass(slots=True)
class RequestOutput:
    """The state of a request when it was read; outputs are cumulative."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics
    num_cached_tokens: int = 0

    @property
    def text(self) -> str:
        return self.outputs[0].text


def validate(
    request_id: str,
    prompt: str | None,
    prompt_token_ids: Sequence[int],
    params: SamplingParams,
    limits: Limits,
    seed: int,
) -> Request:
    """Checks one request against the model and resolves what it left open.

    Args:
        seed: used when the parameters have none.

    Raises:
        InvalidRequest: names the parameter, its value and what would be accepted.
    """
    ids = tuple(prompt_token_ids)
    if not ids:
        raise InvalidRequest("prompt is empty; give at least one token", "prompt")
    for i, token in enumerate(ids):
        if type(token) is not int or not 0 <= token < limits.vocab_size:
            raise InvalidRequest(
                f"prompt token {i} is {token!r}; token ids are 0 to {limits.vocab_size - 1}",
                "prompt",
            )
    room = limits.max_model_len - len(ids)
    if room < 1:
        raise InvalidRequest(
            f"prompt has {len(ids)} tokens, and the context of {limits.max_model_len} tokens must "
            "leave room for at least one more; shorten the prompt or raise --max-model-len",
            "prompt",
        )
    _check_sampling(params)
    wanted = room if params.max_tokens is None else params.max_tokens
    return Request(
        request_id=request_id,
        prompt=prompt,
        prompt_token_ids=ids,
        params=params,
        max_tokens=min(wanted, room),
        seed=seed if params.seed is None else params.seed,
    )


def _check_sampling(params: SamplingParams) -> None:
    def require(good: bool, name: str, value: object, accepted: str) -> None:
        if not good:
            raise InvalidRequest(f"{name}={value!r} is not accepted; {accepted}", name)

    p = params
    require(0.0 <= p.temperature <= 100.0, "temperature", p.temperature, "give 0 to 100")
    require(0.0 < p.top_p <= 1.0, "top_p", p.top_p, "give more than 0 and at most 1")
    require(-1 <= p.top_k < 2**31, "top_k", p.top_k, "give a positive number, or 0 or -1 for all")
    require(p.max_tokens is None or p.max_tokens >= 1, "max_tokens", p.max_tokens, "give 1 or more")
    require(p.seed is None or 0 <= p.seed <= MAX_SEED, "seed", p.seed, f"give 0 to {MAX_SEED}")
    require(p.logprobs in (None, 0), "logprobs", p.logprobs, "give 0 (the chosen token) or nothing")
    require(-1000 <= p.priority <= 1000, "priority", p.priority, "give -1000 to 1000")
    require(
        len(p.stop) <= MAX_STOP_STRINGS, "stop", p.stop, f"give at most {MAX_STOP_STRINGS} strings"
    )
    for text in p.stop:
        require(
            0 < len(text) <= MAX_STOP_LENGTH,
            "stop",
            text,
            f"give 1 to {MAX_STOP_LENGTH} characters",
        )


def _param(message: str) -> str | None:
    """The field that a msgspec error speaks of: "... - at `$.top_p`" or "... unknown field `x`"."""
    _, _, tail = message.rpartition("`$.")
    if tail and tail != message:
        return tail.partition("`")[0].partition("[")[0]
    parts = message.split("`")
    return parts[1] if len(parts) > 2 else None
