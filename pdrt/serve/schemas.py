"""What clients send: the body of /v1/completions, and what that of a chat has in common with it.

Only shapes and types are checked here, strictly ("5" is not a number); what values mean is checked
by `pdrt.request.validate` alone. `null` is the same as leaving a field out. Unknown fields are
ignored, save those that would change the output (`_NEUTRAL`): they are refused, not dropped.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from pdrt.errors import InvalidRequest, shown
from pdrt.sampling_params import MAX_LOGIT_BIAS, SamplingParams
from pdrt.serve.formats import Wishes

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16  # of completions; a chat may go on to the context's end, as OpenAI's do

_TOKEN_ID = re.compile("[0-9]{1,10}")

# fail_fast: one error for a list of a million wrong items, not a million errors. The lengths are
# beyond all that is accepted further on, and stop what would take long to check.
MAX_IDS = 1 << 20
MAX_ITEMS = 4096
TokenIds = Annotated[list[int], Field(fail_fast=True, max_length=MAX_IDS)]
Texts = Annotated[list[str], Field(fail_fast=True, max_length=MAX_ITEMS)]
Many = Field(fail_fast=True, max_length=MAX_PROMPTS)
Prompt = str | Annotated[list[str], Many] | TokenIds | Annotated[list[TokenIds], Many]

# Fields of the OpenAI API and of its dialects that change the output and that this version does not
# have, with the values that change nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "length_penalty": (1,),
    "suffix": ("",),
    "echo": (False,),  # of chats; completions have it
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "json_schema": (),
    "regex": (),
    "ebnf": (),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "documents": ([],),
    "prompt_embeds": (),
    "logits_processors": ([],),
    "max_new_tokens": (),  # max_tokens, as others call it
    "max_completion_tokens": (),  # of completions; chats have it
    "min_new_tokens": (0,),
    "truncate_prompt_tokens": (),
    "allowed_token_ids": (),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "use_beam_search": (False,),
    "add_special_tokens": (False,),  # of chats; completions have it
}

# Fields that are sampling parameters of the same name and type.
_SAME = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
    "priority",
)


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class StreamOptions(Body):
    """include_usage: a last chunk with the counts. continuous_usage_stats: in every chunk too."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationBody(Body):
    """The fields that both bodies share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None  # JSON's keys are strings; see _biases
    seed: int | None = None
    stop: str | Texts | None = None
    stop_token_ids: TokenIds | None = None
    bad_words: Texts | None = None
    ignore_eos: bool | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    priority: int | None = None
    user: str | None = None

    @property
    def num_sequences(self) -> int:
        """Of each prompt."""
        return 1 if self.n is None else self.n

    def check(self) -> None:
        """Refuses what this version does not have.

        Raises:
            InvalidRequest: names the field and the values that are accepted.
        """
        _require(
            self.best_of in (None, 1, self.num_sequences),
            "best_of",
            self.best_of,
            "give the same as n; all sequences are returned",
        )
        for name, neutral in _NEUTRAL.items():
            value = (self.model_extra or {}).get(name)
            advice = f"give {' or '.join(map(repr, neutral))}" if neutral else "leave it out"
            _require(value is None or value in neutral, name, value, advice)

    def wishes(self, params: SamplingParams) -> Wishes:
        """What the answer is to have beside its text."""
        return Wishes(
            token_ids=bool(self.return_token_ids),
            logprobs=params.logprobs,
            prompt_logprobs=self.prompt_logprobs is not None,
        )

    def _params(self, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        given = {name: value for name in _SAME if (value := getattr(self, name)) is not None}
        return SamplingParams(
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            bad_words=tuple(self.bad_words or ()),
            logit_bias=_biases(self.logit_bias or {}),
            max_tokens=max_tokens,
            logprobs=logprobs,
            prompt_logprobs=self.prompt_logprobs,
            **given,
        )


class CompletionBody(GenerationBody):
    prompt: Prompt
    logprobs: int | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None

    @property
    def prompt_only(self) -> bool:
        """The prompt is all that is wanted, with its logprobs perhaps."""
        return bool(self.echo) and self.max_tokens == 0

    def prompts(self) -> list[str | list[int]]:
        """One item for each choice: text or token ids.

        Raises:
            InvalidRequest: there are none.
        """
        prompts: list[str | list[int]]
        if isinstance(self.prompt, str):
            prompts = [self.prompt]
        elif self.prompt and isinstance(self.prompt[0], int):
            prompts = [self.prompt]
        else:
            prompts = [*self.prompt]
        if not prompts:
            raise InvalidRequest("prompt is empty; give at least one token", "prompt")
        return prompts

    def echoes(self) -> list[str | None] | None:
        """Where answers are to begin with their prompt: its text, None where it is token ids."""
        if not self.echo:
            return None
        return [p if isinstance(p, str) else None for p in self.prompts()]

    def sampling_params(self) -> SamplingParams:
        """An echo has logprobs of the prompt too. One token is the least that can be run."""
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        params = self._params(1 if self.prompt_only else max_tokens, self.logprobs)
        if not self.echo or self.logprobs is None:
            return params
        prompt_logprobs = max(self.logprobs, self.prompt_logprobs or 0)
        return msgspec.structs.replace(params, prompt_logprobs=prompt_logprobs)


def _biases(given: dict[str, Any]) -> dict[int, float]:
    """logit_bias with token ids for keys.

    Raises:
        InvalidRequest: a key is no token id, or a value no number.
    """
    if len(given) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"logit_bias has {len(given)} tokens; give at most {MAX_LOGIT_BIAS}", "logit_bias"
        )
    for token, bias in given.items():
        is_number = type(bias) is float or (type(bias) is int and bias.bit_length() < 64)
        if not _TOKEN_ID.fullmatch(token) or not is_number:
            raise InvalidRequest(
                f"logit_bias has {shown(token)}: {shown(bias)}; give token ids and numbers, such "
                'as {"50256": -100}',
                "logit_bias",
            )
    return {int(token): bias for token, bias in given.items()}


def _require(good: bool, name: str, value: object, advice: str) -> None:
    if not good:
        raise InvalidRequest(
            f"{name}={shown(value)} is not supported in this version; {advice}", name
        )
