"""What clients send: the bodies of /v1/completions and /v1/chat/completions.

Only shapes and types are checked here, strictly ("5" is not a number); what values mean is checked
by `pdrt.request.validate` alone. `null` is the same as leaving a field out. Unknown fields are
ignored, save those that would change the output (`_NEUTRAL`): they are refused, not dropped.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pdrt.errors import InvalidRequest
from pdrt.sampling_params import SamplingParams
from pdrt.serve.errors import shown

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16  # of completions; a chat may go on to the context's end, as OpenAI's do

# fail_fast: one error for a list of a million wrong items, not a million errors.
TokenIds = Annotated[list[int], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Many = Field(fail_fast=True, max_length=MAX_PROMPTS)
Prompt = str | Annotated[list[str], Many] | TokenIds | Annotated[list[TokenIds], Many]

# Fields of the OpenAI API and of its dialects that change the output and that this version does not
# have, with the values that change nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "best_of": (1,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "stop_token_ids": ([],),
    "suffix": ("",),
    "prompt_logprobs": (),
    "structured_outputs": (),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
    "truncate_prompt_tokens": (),
    "include_stop_str_in_output": (False,),
    "use_beam_search": (False,),
}


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class StreamOptions(_Body):
    """include_usage: a last chunk with the counts. continuous_usage_stats: in every chunk too."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationBody(_Body):
    """The fields that both bodies share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | Texts | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    n: int | None = None
    return_token_ids: bool | None = None
    ignore_eos: bool | None = None
    priority: int | None = None
    user: str | None = None

    def check(self) -> None:
        """Refuses what this version does not have.

        Raises:
            InvalidRequest: names the field and the values that are accepted.
        """
        _require(self.n in (None, 1), "n", self.n, "give 1")
        for name, neutral in _NEUTRAL.items():
            value = (self.model_extra or {}).get(name)
            accepted = " or ".join(repr(v) for v in neutral) or "nothing"
            _require(value is None or value in neutral, name, value, f"give {accepted}")

    def _params(self, max_tokens: int | None, logprobs: bool) -> SamplingParams:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "ignore_eos": self.ignore_eos,
            "priority": self.priority,
        }
        return SamplingParams(
            seed=self.seed,
            stop=stop,
            max_tokens=max_tokens,
            logprobs=0 if logprobs else None,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )


class CompletionBody(GenerationBody):
    prompt: Prompt
    logprobs: int | None = None
    echo: bool | None = None

    def check(self) -> None:
        super().check()
        _require(not self.echo, "echo", self.echo, "give false")
        _require(
            self.logprobs in (None, 0, 1),
            "logprobs",
            self.logprobs,
            "give 0 or 1 for the chosen token's",
        )

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

    def sampling_params(self) -> SamplingParams:
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        return self._params(max_tokens, self.logprobs is not None)


class TextPart(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None

    def plain(self) -> dict[str, str]:
        """What a chat template reads."""
        if isinstance(self.content, list):
            text = "".join(part.text for part in self.content)
        else:
            text = self.content or ""
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(GenerationBody):
    messages: Annotated[list[Message], Field(fail_fast=True)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def check(self) -> None:
        super().check()
        _require(
            self.top_logprobs in (None, 0),
            "top_logprobs",
            self.top_logprobs,
            "give 0; logprobs has the chosen token's",
        )
        if not self.messages:
            raise InvalidRequest("messages is empty; give at least one", "messages")

    def sampling_params(self) -> SamplingParams:
        """`max_completion_tokens` is the newer name, and wins."""
        newer = self.max_completion_tokens
        return self._params(self.max_tokens if newer is None else newer, bool(self.logprobs))


def _require(good: bool, name: str, value: object, accepted: str) -> None:
    if not good:
        raise InvalidRequest(
            f"{name}={shown(value)} is not supported in this version; {accepted}", name
        )
