"""The forms in which pdrt.Engine takes prompts and sampling parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from pdrt.errors import InvalidRequest
from pdrt.sampling_params import SamplingParams

# A text, or its token ids; {"prompt": ...} or {"prompt_token_ids": ...} as in vLLM.
Prompt = str | Sequence[int] | Mapping[str, object]
Conversation = Sequence[dict[str, str]]  # messages with role and content
Prompts = Prompt | Sequence[Prompt]
Params = SamplingParams | dict[str, object] | None
ParamsForEach = Params | Sequence[Params]


def as_pairs(prompts: Prompts, params: ParamsForEach) -> list[tuple[Prompt, SamplingParams]]:
    """Each prompt with its sampling parameters, in whatever forms they were given.

    Raises:
        InvalidRequest: there are several parameters, and not one for each prompt.
    """
    many = _as_prompts(prompts)
    if params is None or isinstance(params, (SamplingParams, dict)):
        return [(prompt, SamplingParams.of(params)) for prompt in many]
    if len(params) != len(many):
        raise InvalidRequest(
            f"{len(many)} prompts and {len(params)} sampling parameters; give one for all, or one "
            "for each",
            "sampling_params",
        )
    return [(prompt, SamplingParams.of(one)) for prompt, one in zip(many, params, strict=True)]


def text_or_ids(prompt: Prompt) -> str | Sequence[int]:
    """A prompt out of whatever form it was given in.

    Raises:
        InvalidRequest: a mapping has none of the two keys, or others.
    """
    if not isinstance(prompt, Mapping):
        return prompt
    others = sorted(prompt.keys() - {"prompt", "prompt_token_ids"})
    ids, text = prompt.get("prompt_token_ids"), prompt.get("prompt")
    if others or (ids is None and text is None):
        raise InvalidRequest(
            f"a prompt has the keys {sorted(prompt)}; give 'prompt', 'prompt_token_ids' or both, "
            "and nothing else",
            "prompt",
        )
    return cast("str | Sequence[int]", text if ids is None else ids)


def bad_word_ids(words: Sequence[str], encode: Callable[[str, bool], list[int]]) -> list[list[int]]:
    """Token ids of each word as it is written, and with a blank before it.

    A word that the model spells with other tokens, or as a part of longer ones, is not found.

    Args:
        encode: text and whether to add special tokens -> token ids.
    """
    texts = (text for word in words for text in (word, " " + word.lstrip()))
    spellings = {tuple(encode(text, False)) for text in texts}
    return sorted(map(list, spellings - {()}))


def as_conversations(
    messages: Conversation | Sequence[Conversation],
) -> list[Conversation]:
    """One conversation, or several."""
    if all(isinstance(message, dict) for message in messages):
        return [cast(Conversation, messages)]
    return list(cast(Sequence[Conversation], messages))


def _as_prompts(prompts: Prompts) -> list[Prompt]:
    """One prompt, as text or token ids, or several."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if prompts and all(isinstance(item, int) for item in prompts):
        return [cast(Sequence[int], prompts)]
    return list(cast(Sequence[Prompt], prompts))
