"""Renders a model's chat template: messages in, one prompt text out.

A template is a program that came with a checkpoint, so it runs in jinja2's sandbox, which lets it
change nothing and reach no attribute that Python keeps to itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pdrt.errors import InvalidRequest, ModelError


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja text, as checkpoints carry it.
        special_tokens: names that templates know, such as bos_token and eos_token.

    Raises:
        ModelError: the text is no template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _compile(source)
        except TemplateError as error:
            raise ModelError(f"the model's chat template cannot be read: {error}") from None

    def render(self, messages: Sequence[Mapping[str, object]]) -> str:
        """The prompt that asks for the next message.

        Raises:
            InvalidRequest: the template refuses the messages, or they lack what it needs.
        """
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=True, **self._special_tokens
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", "messages"
            ) from None


def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(value: object, indent: int | None = None) -> str:
    """Unlike jinja2's own filter it does not escape for HTML: a prompt is no web page."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
