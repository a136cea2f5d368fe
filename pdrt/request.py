"""What a user asks for and what comes back, with vLLM's names; and the one validation function.

Every entrance (Engine.generate, chat, HTTP) calls `validate`; nothing behind it checks again.
Runs in the front end; touches no tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from pdrt.errors import InvalidRequest
from pdrt.sampling_params import MAX_BAD_WORD_TOKENS, SamplingParams, check

# Of a prompt, in the answers to its `n` sequences; each takes some 300 bytes.
MAX_REPEATED_SCORES = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request is validated against. `num_slots` requests run or are about to at once."""

    vocab_size: int
    max_model_len: int
    num_slots: int
    max_queued_requests: int


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request. `max_tokens` and `seed` are resolved; `prompt` is None for token ids.

    `bad_words` are those of the parameters as token ids. Where `n` sequences were asked for, each
    is a request of its own (`sequences`), and all but the first name the first as their leader.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    max_tokens: int
    seed: int
    bad_words: tuple[tuple[int, ...], ...] = ()
    leader: str | None = None


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's log-probability (natural log) in the model's own distribution, and its rank there.

    The distribution is that before any sampling parameter. rank: 1 for the likeliest; None for a
    token that is not among those asked for.
    """

    logprob: float
    rank: int | None = None


TokenLogprobs = dict[int, Logprob]  # the chosen token first, then the likeliest by rank


@dataclass(slots=True)
class CompletionOutput:
    """One generated sequence.

    finish_reason: "stop", "length", "abort", None while running. stop_reason: the stop string or
    the one of `stop_token_ids` that ended it, None where another thing did.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float = 0.0
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class RequestOutput:
    """The state of a request when it was read; outputs are cumulative, one for each of `n`.

    prompt_logprobs: one entry for each token of the prompt, None for the first, which follows
    nothing; there from the first output token on, where they were asked for.
    num_cached_tokens: of the prompt, those that others had computed when it was begun.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics
    num_cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprobs | None] | None = None

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
    bad_words: Sequence[Sequence[int]] = (),
) -> Request:
    """Checks one request against the model and resolves what it left open.

    Args:
        seed: used when the parameters have none.
        bad_words: those of the parameters as token ids.

    Raises:
        InvalidRequest: names the parameter, its value and what would be accepted.
    """
    num_tokens = len(prompt_token_ids)
    if num_tokens == 0:
        raise InvalidRequest("prompt is empty; give at least one token", "prompt")
    room = limits.max_model_len - num_tokens
    if room < 1:
        raise InvalidRequest(
            f"prompt has {num_tokens} tokens, and the context of {limits.max_model_len} tokens "
            "must leave room for at least one more; shorten the prompt or raise --max-model-len",
            "prompt",
        )
    ids = tuple(prompt_token_ids)
    for i, token in enumerate(ids):  # no more than the context holds, whatever was sent
        if type(token) is not int or not 0 <= token < limits.vocab_size:
            raise InvalidRequest(
                f"prompt token {i} is {token!r}; token ids are 0 to {limits.vocab_size - 1}",
                "prompt",
            )
    check(params, limits.vocab_size)
    check_room(1, params.n, limits)
    num_scores = num_tokens * params.n * (1 + (params.prompt_logprobs or 0))
    if params.prompt_logprobs is not None and params.n > 1 and num_scores > MAX_REPEATED_SCORES:
        raise InvalidRequest(
            f"prompt_logprobs={params.prompt_logprobs} of {num_tokens} tokens would be told n="
            f"{params.n} times over; ask for them once, with n=1",
            "prompt_logprobs",
        )
    if sum(map(len, bad_words)) > MAX_BAD_WORD_TOKENS:
        raise InvalidRequest(
            f"bad_words has {sum(map(len, bad_words))} tokens in all; give at most "
            f"{MAX_BAD_WORD_TOKENS}",
            "bad_words",
        )
    wanted = room if params.max_tokens is None else params.max_tokens
    return Request(
        request_id=request_id,
        prompt=prompt,
        prompt_token_ids=ids,
        params=params,
        max_tokens=min(wanted, room),
        seed=seed if params.seed is None else params.seed,
        bad_words=tuple(map(tuple, bad_words)),
    )


def check_room(num_prompts: int, n: int, limits: Limits) -> None:
    """Whether prompts of `n` sequences each can be taken together by a server that has nothing
    else to do: each first sequence has a slot, while there are any, and all others wait for it.

    Raises:
        InvalidRequest: no server of these settings ever takes them.
    """
    waiting = num_prompts * n - min(num_prompts, limits.num_slots)
    if waiting > limits.max_queued_requests:
        raise InvalidRequest(
            f"{num_prompts} prompt{'s' * (num_prompts > 1)} with n={n} would have {waiting} "
            f"requests wait, and --max-queued-requests is {limits.max_queued_requests}; send fewer "
            "at once",
            "n" if n > 1 else "prompt",
        )


def sequences(request: Request) -> list[Request]:
    """The `n` sequences of a request: itself, and followers with seeds of their own.

    The prompt is scored once, by the first.
    """
    params = structs.replace(request.params, prompt_logprobs=None)
    followers = (
        replace(
            request,
            request_id=f"{request.request_id}/{i}",
            params=params,
            seed=derived_seed(request.seed, i),
            leader=request.request_id,
        )
        for i in range(1, request.params.n)
    )
    return [request, *followers]


def derived_seed(seed: int, number: int) -> int:
    """Another seed for each number, the same for the same ones, in [0, 2^63)."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
