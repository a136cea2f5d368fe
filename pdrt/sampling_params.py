"""How output tokens are chosen: what a user says of it, and what of that a worker needs.

Names and defaults are vLLM's. What each parameter does to the logits, and in which order, is said
in docs/sampling.md and done in pdrt.runner.sampler. Touches no tensors.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pdrt.errors import InvalidRequest, shown

MAX_N = 128  # sequences of one prompt
MAX_LOGPROBS = 20  # likeliest tokens told beside the chosen one
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256  # characters
MAX_STOP_TOKEN_IDS = 64
MAX_BAD_WORDS = 64
MAX_BAD_WORD_TOKENS = 512  # of all spellings of all bad words together
MAX_LOGIT_BIAS = 300  # entries
MAX_SEED = 2**63 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to choose output tokens.

    Attributes:
        n: sequences for each prompt; sequence i has a seed made of the seed and i.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: keep the smallest set of tokens whose probabilities add up to it; in (0, 1].
        top_k: keep this many of the likeliest tokens; 0 or -1 keeps all.
        min_p: keep tokens at least this many times as likely as the likeliest; in [0, 1].
        repetition_penalty: over 1 makes tokens of prompt and output less likely; 1 is none.
        presence_penalty: taken from the logit of every token that the output has.
        frequency_penalty: the same, times how often the output has it.
        logit_bias: token id -> number added to its logit, in [-100, 100].
        seed: chosen by the engine when None. Equal seeds give equal tokens, whatever else runs.
        max_tokens: at most this many output tokens; None is up to the context's end.
        min_tokens: nothing but max_tokens ends the output before it has this many.
        stop: strings that end the request; they are not part of the text.
        stop_token_ids: tokens that end it as the model's own end does; not part of the text.
        bad_words: strings that are not generated, in the spellings of pdrt.inputs.BadWords.
        ignore_eos: go on after an end-of-sequence token.
        logprobs: None, or how many of the likeliest tokens to tell beside each chosen one.
        prompt_logprobs: the same for the prompt's tokens, which are then computed anew.
        priority: smaller runs earlier; ties are first come, first served.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    priority: int = 0

    @classmethod
    def of(cls, value: SamplingParams | dict[str, object] | None) -> SamplingParams:
        """Accepts what Engine.generate accepts: params, a dict of their fields, or None."""
        if isinstance(value, SamplingParams):  # its constructor looks at no types
            fields = msgspec.structs.asdict(value)
        elif value is None or isinstance(value, dict):
            fields = dict(value or {})
        else:
            raise InvalidRequest(
                f"sampling_params is {type(value).__name__}; give SamplingParams, a dict or None",
                "sampling_params",
            )
        for name in ("stop", "bad_words"):
            if isinstance(fields.get(name), str):
                fields[name] = (fields[name],)
        for name in ("stop", "stop_token_ids", "bad_words", "logit_bias"):
            if fields.get(name, ()) is None:
                del fields[name]
        try:
            return msgspec.convert(fields, cls, str_keys=True)  # JSON has no other keys
        except msgspec.ValidationError as error:
            raise InvalidRequest(
                f"sampling parameters: {error}", param=_param(str(error))
            ) from None


class SlotParams(msgspec.Struct, frozen=True, array_like=True):
    """What workers need of the parameters, resolved; lies in the request's slot as msgpack.

    `bad_words` are token ids: a sequence's last token is not chosen after its others. `logprobs`
    and `prompt_logprobs` are -1 where none are wanted.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    ignore_eos: bool
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    logprobs: int = -1
    prompt_logprobs: int = -1

    @property
    def reads_tokens(self) -> bool:
        """Whether what a token is chosen from depends on the tokens before it, beside the model."""
        return bool(
            self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.min_tokens
            or self.bad_words
        )


def slot_params(
    params: SamplingParams, seed: int, bad_words: tuple[tuple[int, ...], ...]
) -> SlotParams:
    """What the slot of a valid request holds."""
    return SlotParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        seed=seed,
        ignore_eos=params.ignore_eos,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=params.logit_bias,
        min_tokens=params.min_tokens,
        stop_token_ids=params.stop_token_ids,
        bad_words=bad_words,
        logprobs=-1 if params.logprobs is None else params.logprobs,
        prompt_logprobs=-1 if params.prompt_logprobs is None else params.prompt_logprobs,
    )


def check(params: SamplingParams, vocab_size: int) -> None:
    """Refuses values that mean nothing.

    Raises:
        InvalidRequest: names the parameter, its value and what would be accepted.
    """
    for name, (least, most) in _RANGES.items():
        value = getattr(params, name)
        if value is not None and not least <= value <= most:
            raise _refused(name, value, f"give {least:g} to {most:g}")
    for name in ("logprobs", "prompt_logprobs"):
        value = getattr(params, name)
        if value is not None and not 0 <= value <= min(MAX_LOGPROBS, vocab_size):
            raise _refused(name, value, f"give 0 to {min(MAX_LOGPROBS, vocab_size)}")
    p = params
    _require(0.0 < p.top_p <= 1.0, "top_p", p.top_p, "give more than 0 and at most 1")
    _require(
        0.0 < p.repetition_penalty <= 100.0,
        "repetition_penalty",
        p.repetition_penalty,
        "give more than 0 and at most 100; 1 is none",
    )
    _require(-1 <= p.top_k < 2**31, "top_k", p.top_k, "give a positive number, or 0 or -1 for all")
    _require(
        p.max_tokens is None or p.max_tokens >= 1, "max_tokens", p.max_tokens, "give 1 or more"
    )
    _require(
        0 <= p.min_tokens <= (2**31 if p.max_tokens is None else p.max_tokens),
        "min_tokens",
        p.min_tokens,
        "give 0 up to max_tokens",
    )
    _check_texts("stop", p.stop, MAX_STOP_STRINGS)
    _check_texts("bad_words", p.bad_words, MAX_BAD_WORDS)
    _check_ids("stop_token_ids", p.stop_token_ids, MAX_STOP_TOKEN_IDS, vocab_size)
    _check_ids("logit_bias", p.logit_bias, MAX_LOGIT_BIAS, vocab_size)
    for token, bias in p.logit_bias.items():
        _require(-100.0 <= bias <= 100.0, "logit_bias", {token: bias}, "give -100 to 100")


_RANGES: dict[str, tuple[float, float]] = {
    "n": (1, MAX_N),
    "temperature": (0, 100),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "seed": (0, MAX_SEED),
    "priority": (-1000, 1000),
}


def _check_texts(name: str, texts: tuple[str, ...], most: int) -> None:
    _require(len(texts) <= most, name, f"{len(texts)} strings", f"give at most {most}")
    for text in texts:
        _require(
            0 < len(text) <= MAX_STOP_LENGTH, name, text, f"give 1 to {MAX_STOP_LENGTH} characters"
        )


def _check_ids(name: str, ids: Iterable[int], most: int, vocab_size: int) -> None:
    ids = tuple(ids)
    _require(len(ids) <= most, name, f"{len(ids)} tokens", f"give at most {most}")
    for token in ids:
        _require(
            0 <= token < vocab_size,
            name,
            token,
            f"token ids of this model are 0 to {vocab_size - 1}",
        )


def _require(good: bool, name: str, value: object, accepted: str) -> None:
    if not good:
        raise _refused(name, value, accepted)


def _refused(name: str, value: object, accepted: str) -> InvalidRequest:
    return InvalidRequest(f"{name}={shown(value)} is not accepted; {accepted}", name)


def _param(message: str) -> str | None:
    """The field that a msgspec error speaks of: "... - at `$.top_p`" or "... unknown field `x`"."""
    _, _, tail = message.rpartition("`$.")
    if tail and tail != message:
        return tail.partition("`")[0].partition("[")[0]
    parts = message.split("`")
    return parts[1] if len(parts) > 2 else None
