"""The forms in which pdrt.Engine takes prompts and sampling parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from pdrt.errors import InvalidRequest, shown
from pdrt.sampling_params import SamplingParams

# A text, or its token ids; {"prompt": ...} or {"prompt_token_ids": ...} as in vLLM.
Prompt = str | Sequence[int] | Mapping[str, object]
Conversation = Sequence[Mapping[str, object]]  # messages with role and content
Prompts = Prompt | Sequence[Prompt]
Params = SamplingParams | dict[str, object] | None
ParamsForEach = Params | Sequence[Params]


def as_pairs(prompts: Prompts, params: ParamsForEach) -> list[tuple[Prompt, SamplingParams]]:
    """Each prompt with its sampling parameters, in whatever forms they were given.

    Raises:
        InvalidRequest: there are several parameters, and not one for each prompt.
    """
    many = _as_prompts(prompts)
    if isinstance(params, str) or not isinstance(params, Sequence):
        return [(prompt, SamplingParams.of(params)) for prompt in many]  # refuses what is none
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
        InvalidRequest: it is of another type; a mapping has none of the two keys, or others.
    """
    if not isinstance(prompt, Mapping):
        return _checked("a prompt", prompt)
    others = sorted(prompt.keys() - {"prompt", "prompt_token_ids"})
    ids, text = prompt.get("prompt_token_ids"), prompt.get("prompt")
    if others or (ids is None and text is None):
        raise InvalidRequest(
            f"a prompt has the keys {sorted(prompt)}; give 'prompt', 'prompt_token_ids' or both, "
            "and nothing else",
            "prompt",
        )
    name, value = ("prompt", text) if ids is None else ("prompt_token_ids", ids)
    return _checked(f"a prompt's {name!r}", value)


def _checked(name: str, value: object) -> str | Sequence[int]:
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise InvalidRequest(
            f"{name} is of the type {type(value).__name__}; give a text or a list of token ids "
            "(of an array its tolist())",
            "prompt",
        )
    return value


class BadWords:
    """Token ids of words as they are written, and with a blank before them.

    A word that the model spells with other tokens, or as a part of longer ones, is not found. One
    with a token that only the tokenizer knows is left out: the model cannot write it.

    Args:
        encode: text and whether to add special tokens -> token ids.
    """

    def __init__(self, encode: Callable[[str, bool], list[int]], vocab_size: int) -> None:
        self._encode = encode
        self._vocab_size = vocab_size
        self._last: tuple[tuple[str, ...], list[list[int]]] = ((), [])

    def ids(self, words: tuple[str, ...]) -> list[list[int]]:
        """The last ones are remembered: many prompts may come with the same words."""
        known, ids = self._last
        if words != known:
            texts = (text for word in words for text in (word, " " + word.lstrip()))
            spellings = {tuple(self._encode(text, False)) for text in texts}
            ids = sorted(list(each) for each in spellings if each and max(each) < self._vocab_size)
            self._last = words, ids
        return ids


def as_conversations(
    messages: Conversation | Sequence[Conversation],
) -> list[Conversation]:
    """One conversation, or several."""
    if isinstance(messages, (list, tuple)) and not any(isinstance(m, dict) for m in messages):
        return list(cast(Sequence[Conversation], messages)) or [[]]
    return [cast(Conversation, messages)]


def as_messages(conversation: Conversation) -> list[dict[str, object]]:
    """What a chat template reads: parts of text as one text, and a developer as the system.

    Raises:
        InvalidRequest: it is no list of messages, or an empty one.
    """
    if not isinstance(conversation, (list, tuple)) or not conversation:
        what = "empty" if conversation in ([], ()) else f"of the type {type(conversation).__name__}"
        raise InvalidRequest(
            f'messages is {what}; give a list of {{"role": "user", "content": "..."}}', "messages"
        )
    return [_as_message(i, message) for i, message in enumerate(conversation)]


def _as_message(number: int, message: object) -> dict[str, object]:
    if not isinstance(message, Mapping):
        raise InvalidRequest(
            f"messages[{number}] is of the type {type(message).__name__}; give "
            '{"role": "user", "content": "..."}',
            "messages",
        )
    content = message.get("content")
    if isinstance(content, (list, tuple)):
        for part in content:
            if not (isinstance(part, Mapping) and isinstance(part.get("text"), str)):
                raise InvalidRequest(
                    f"messages[{number}].content has {shown(part)}; give text or a list of parts "
                    '{"type": "text", "text": ...}',
                    "messages",
                )
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise InvalidRequest(
            f"messages[{number}].content is {shown(content)}; give text", "messages"
        )
    role = message.get("role")
    if not isinstance(role, str):
        raise InvalidRequest(f"messages[{number}].role is {shown(role)}; give a text", "messages")
    role = "system" if role == "developer" else role
    return {**message, "role": role, "content": content}


def _as_prompts(prompts: Prompts) -> list[Prompt]:
    """One prompt, in any of its forms, or several."""
    if isinstance(prompts, (str, bytes, Mapping)) or not isinstance(prompts, Sequence):
        return [cast(Prompt, prompts)]  # what is none is refused as one
    if prompts and all(isinstance(item, int) for item in prompts):
        return [cast(Sequence[int], prompts)]
    return list(cast(Sequence[Prompt], prompts))
