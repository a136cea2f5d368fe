"""Text to token ids and back, for whole texts and for streams. Runs in the front end.

Reads tokenizer.json and tokenizer_config.json of a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers

from pdrt.byte_tokens import ByteTokens
from pdrt.chat_template import ChatOptions, ChatTemplate, built_in_names, template_source
from pdrt.detokenizer import Detokenizer
from pdrt.errors import ConfigError, InvalidRequest, ModelError


class Tokenizer:
    """The tokenizer of the checkpoint in `folder`.

    Args:
        chat_template: a built-in name or a file, instead of the checkpoint's own template.

    Raises:
        ModelError: tokenizer.json is missing or cannot be read, or the template cannot.
        ConfigError: there is no such chat template.
    """

    def __init__(self, folder: Path, chat_template: str | None = None) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{folder} has no tokenizer.json; pdrt needs the model's tokenizer")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise ModelError(f"{path} cannot be read: {error}") from None
        # Left over from training in some files; a prompt is neither cut nor filled up.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._template = _chat_template(folder, chat_template)
        self._bytes = ByteTokens(self._tokenizer)
        self._token_texts: dict[int, str] = {}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, in which names of special tokens stand for these.

        Raises:
            InvalidRequest: the text has half of a surrogate pair, which has no UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"prompt is not valid Unicode: {error}", "prompt") from None
        # The batch call, as it alone lets other threads run: a text of 8 MB takes seconds.
        encode = self._tokenizer.encode_batch_fast
        ids: list[int] = encode([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def bytes_of(self, token_id: int) -> bytes | None:
        """The bytes that a token stands for, whatever is beside it; None where that matters."""
        return self._bytes.of(token_id)

    def token_text(self, token_id: int) -> str:
        """A token by itself, a special one by its name. Remembered: logprobs ask for thousands."""
        text = self._token_texts.get(token_id)
        if text is None:
            text = self._token_texts[token_id] = self.decode([token_id], skip_special_tokens=False)
        return text

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, object]], options: ChatOptions | None = None
    ) -> str:
        """The prompt for the next message; it has its special tokens, so encode it without.

        Raises:
            InvalidRequest: there is no template, or it refuses the messages.
        """
        if self._template is None:
            raise InvalidRequest(
                "this model has no chat template; start the server with --chat-template and a file "
                f"or one of {', '.join(built_in_names())} (microsoft/phi-2: --chat-template phi-2),"
                " or send the prompt to /v1/completions",
                "messages",
            )
        return self._template.render(messages, options)


class TextStream:
    """The text of one request while its tokens come: only what can no longer change.

    Held back are bytes that do not make a character yet, and text that may be the beginning of a
    stop string. Tokens marked special give no text.

    Args:
        stop: strings at whose first appearance the text ends, without them.
        prompt_token_ids: what the tokens follow; gives no text.
        min_tokens: stop strings are looked for from this token on, in what it and later ones add.

    Attributes:
        stopped: the stop string that was found; nothing may be pushed after it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        prompt_token_ids: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        self.stopped: str | None = None
        self._text = Detokenizer(tokenizer, prompt_token_ids)
        self._stop = tuple(stop)
        self._num_unstoppable = min_tokens  # tokens to come before one may end the text
        self._held = ""  # given by the decoder, may begin a stop string

    def push(self, token_id: int) -> str:
        """Takes one token; returns the text that is certain now, often none."""
        assert self.stopped is None, "a token after the end"
        self._num_unstoppable -= 1
        return self._until_stop(self._text.push(token_id))

    def finish(self) -> str:
        """The rest, when no token will follow; unless a stop string is found in it."""
        if self.stopped is not None:
            return ""
        rest = self._until_stop(self._text.finish())
        return rest if self.stopped is not None else rest + self._held

    def _until_stop(self, new: str) -> str:
        if not self._stop or self._num_unstoppable > 0:
            return new
        text = self._held + new
        found = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            at, self.stopped = min(found)
            return text[:at]
        certain = len(text) - self._may_begin_stop(text)
        self._held = text[certain:]
        return text[:certain]

    def _may_begin_stop(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        longest = min(len(text), max(map(len, self._stop), default=0))
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0


def _chat_template(folder: Path, chosen: str | None) -> ChatTemplate | None:
    config = _config(folder)
    source = _own_template(folder, config) if chosen is None else template_source(chosen)
    if source is None:
        return None
    try:
        return ChatTemplate(source, _special_tokens(config))
    except ModelError as error:
        if chosen is None:
            raise
        raise ConfigError(f"--chat-template is {chosen!r}: {error}") from None


def _own_template(folder: Path, config: dict[str, object]) -> str | None:
    file = folder / "chat_template.jinja"
    source = _text(file) if file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several, by name
        named = [entry for entry in source if isinstance(entry, dict)]
        source = next(
            (each.get("template") for each in named if each.get("name") == "default"), None
        )
    return source if isinstance(source, str) else None


def _special_tokens(config: dict[str, object]) -> dict[str, str]:
    """bos_token and the like, as text; newer configs write them as objects."""
    contents = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token")
    }
    return {name: text for name, text in contents.items() if isinstance(text, str)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{path} is not text in UTF-8; fetch it again") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None


def _config(folder: Path) -> dict[str, object]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds {type(config).__name__}, not an object")
    return config
