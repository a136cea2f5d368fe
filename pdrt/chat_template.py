"""Renders a model's chat template: messages in, one prompt text out.

A template is a program that came with a checkpoint, so it runs in a sandbox with limits
(pdrt.template_sandbox). Templates for models without one are in the folder chat_templates.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from pdrt.errors import ConfigError, InvalidRequest, ModelError
from pdrt.template_limits import Budget, TemplateLimit, spending
from pdrt.template_sandbox import Sandbox

BUILT_IN = Path(__file__).parent / "chat_templates"
MAX_REASON = 500  # characters of what a template says
RESERVED = (  # what is not the user's to set: data that the server gives, and its own switches
    "messages",
    "tools",
    "documents",
    "chat_template",
    "tokenize",
    "add_generation_prompt",
    "continue_final_message",
)


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How to write a conversation.

    Attributes:
        add_generation_prompt: end with the beginning of the assistant's next message.
        continue_final_message: end within the last message, to be continued by the model.
        variables: further names for the template; models say which they know.

    Raises:
        InvalidRequest: these make no sense together.
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.add_generation_prompt and self.continue_final_message:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt are both true: a prompt cannot "
                "end within the last message and with a new one; give one of them",
                "continue_final_message",
            )
        reserved = next((name for name in RESERVED if name in self.variables), None)
        if reserved is not None:
            raise InvalidRequest(
                f"chat_template_kwargs has {reserved!r}, which is not a template's own variable; "
                "leave it out",
                "chat_template_kwargs",
            )


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja text, as checkpoints carry it.
        special_tokens: names that templates know, such as bos_token and eos_token.

    Raises:
        ModelError: the text is no template, or one that the sandbox does not let in.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        sandbox = Sandbox(
            filters={"tojson": _to_json},
            names={"raise_exception": _raise_exception, "strftime_now": _strftime_now},
        )
        try:
            self._template = sandbox.template(source)
        except (TemplateError, SyntaxError, ValueError, RecursionError) as error:
            raise ModelError(f"the chat template cannot be read: {_one_line(error)}") from None

    def render(
        self, messages: Sequence[Mapping[str, object]], options: ChatOptions | None = None
    ) -> str:
        """The prompt that asks for the next message, or for more of the last one.

        Raises:
            InvalidRequest: the template refuses the messages, they lack what it needs, or it went
                beyond a limit.
        """
        options = options or ChatOptions()
        if not options.continue_final_message:
            return self._render(messages, options)
        if not messages:
            raise InvalidRequest("messages is empty; there is none to continue", "messages")
        # A mark that no text has stands where the message ends. Its space goes where the template
        # trims messages, and then the text before it is to be trimmed too.
        mark = secrets.token_hex(16)
        content = str(messages[-1].get("content", ""))
        last = {**messages[-1], "content": f"{content}{mark} "}
        before, found, after = self._render([*messages[:-1], last], options).rpartition(mark)
        if not found:
            raise InvalidRequest(
                "the model's chat template leaves out the last message, so it cannot be continued",
                "continue_final_message",
            )
        before = before.replace(f"{mark} ", "").replace(mark, "")  # where it stands twice
        # Of an empty message nothing is trimmed but what the template has written itself.
        return before if after.startswith(" ") or not content.strip() else before.rstrip()

    def _render(self, messages: Sequence[Mapping[str, object]], options: ChatOptions) -> str:
        variables: dict[str, object] = {
            "tools": None,
            "documents": None,
            **self._special_tokens,
            **options.variables,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": options.add_generation_prompt,
        }
        with _refusals():
            with spending(Budget(Budget().weigh(variables))):
                return self._template.render(variables)


@contextmanager
def _refusals() -> Iterator[None]:
    """Whatever goes wrong in a template is about the messages that it was given."""
    try:
        yield
    except TemplateLimit as error:
        raise InvalidRequest(
            f"the model's chat template exceeds a limit: {error}; send fewer or shorter messages, "
            "or choose another template with --chat-template",
            "messages",
        ) from None
    except RecursionError:
        raise InvalidRequest(
            "the model's chat template exceeds a limit: it calls itself too deeply", "messages"
        ) from None
    except SecurityError as error:
        raise InvalidRequest(
            f"the model's chat template does what templates may not: {error}", "messages"
        ) from None
    except Exception as error:  # a program may raise anything
        raise InvalidRequest(
            f"the model's chat template refuses these messages: {_one_line(error)}", "messages"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON]


def built_in_names() -> list[str]:
    """Templates that `--chat-template` knows by name."""
    return sorted(path.stem for path in BUILT_IN.glob("*.jinja"))


def template_source(name_or_file: str) -> str:
    """The text of a built-in template, or of a file.

    Raises:
        ConfigError: there is neither; names those that are built in.
    """
    if name_or_file in built_in_names():
        return (BUILT_IN / f"{name_or_file}.jinja").read_text()
    try:
        return Path(name_or_file).read_text()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ConfigError(
            f"--chat-template is {name_or_file!r}, which is no file that can be read ({reason}) "
            f"and no built-in template; give a file or one of {', '.join(built_in_names())}"
        ) from None


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(message if isinstance(message, str) else type(message).__name__)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format[:100])


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike jinja2's own filter it does not escape for HTML: a prompt is no web page."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
