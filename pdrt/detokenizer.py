"""Tokens to text while they come, one by one: every character once, none in parts.

A character may be several tokens. Tokens that stand for bytes, whatever is beside them, are decoded
here: in vocabularies in GPT-2's manner all do, in SentencePiece's those such as <0xE2>, where
libraries turn a whole run of them into replacement characters as long as its last character is
unfinished. The text of other tokens depends on those before them. So a few of the last ones are
decoded together each time, and of that what was not given yet is given, but for an end that may
still become a character.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from os.path import commonprefix
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what bytes that are not UTF-8 decode to
MAX_INCOMPLETE = 4  # replacement characters at the end that may still become a character
CONTEXT = 8  # tokens kept before the new ones: some decoders treat a text's first token differently
WINDOW = 32  # tokens decoded together, before the oldest are let go


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def bytes_of(self, token_id: int) -> bytes | None:
        """The bytes that a token stands for, whatever is beside it; None where that matters."""
        ...


class Detokenizer:
    """The text of tokens that follow a prompt.

    Where the prompt ends within a character, that character is given when it is complete; nothing
    else of the prompt is.
    """

    def __init__(self, decoder: Decoder, prompt_token_ids: Sequence[int] = ()) -> None:
        self._decoder = decoder
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._in_run = False  # of tokens that are bytes
        self._ids: list[int] = []
        self._before = ""  # their text, as far as it is the prompt's
        self._num_given = 0
        self._gave_any = False
        self._start_after(list(prompt_token_ids))
        # What the bytes of the prompt's unfinished character are if the rest never comes.
        self._cut = self._utf8.getstate()[0].decode(errors="replace")

    def push(self, token_id: int) -> str:
        """Takes one token; returns the text that is certain now, often none."""
        data = self._decoder.bytes_of(token_id)
        new = self._end_run() if data is None else ("" if self._in_run else self._rest())
        self._ids.append(token_id)
        if data is None:
            new += self._from_window()
        else:
            self._in_run = True
            new += self._from_bytes(data)
        self._gave_any = self._gave_any or bool(new)
        return new

    def finish(self) -> str:
        """The rest, when no token will follow."""
        return self._from_bytes(b"", final=True) if self._in_run else self._rest()

    def _start_after(self, ids: list[int], num_held: int = 0) -> None:
        """Keeps the last tokens as given, but for `num_held` characters of their text."""
        count = CONTEXT
        while count < len(ids) and self._says_little(ids[-count:]):
            count *= 2
        self._ids = ids[-count:]
        for token in self._ids:
            data = self._decoder.bytes_of(token)
            self._in_run = data is not None
            if data is None:
                self._utf8.reset()
            else:
                self._utf8.decode(data)
        self._before = self._decoder.decode(self._ids)
        self._num_given = len(self._before) - num_held

    def _says_little(self, ids: list[int]) -> bool:
        """No text, so that the next token would be the first; or no whole character, in a few."""
        text = self._decoder.decode(ids)
        return not text or (len(ids) < WINDOW and not text.strip(REPLACEMENT))

    def _from_window(self) -> str:
        text = self._decode()
        complete = _complete(text)
        new = complete[self._num_given :]
        self._num_given = max(self._num_given, len(complete))
        if len(self._ids) > WINDOW:
            self._start_after(self._ids, max(0, len(text) - self._num_given))
        return new

    def _decode(self) -> str:
        """The window's text. Until any was given, the prompt's end may still change with it."""
        text = self._decoder.decode(self._ids)
        if not self._gave_any:
            self._num_given = len(commonprefix([self._before, text]))
        return text

    def _rest(self) -> str:
        text = self._decode()
        new, self._num_given = text[self._num_given :], len(text)
        return new

    def _from_bytes(self, data: bytes, final: bool = False) -> str:
        text = self._utf8.decode(data, final)
        if text:
            text = text.removeprefix(self._cut)  # the prompt's, if its character came to nothing
            self._cut = ""
        return text

    def _end_run(self) -> str:
        if not self._in_run:
            return ""
        self._in_run = False
        new = self._from_bytes(b"", final=True)
        self._before = self._decoder.decode(self._ids)
        self._num_given = len(self._before)
        return new


def _complete(text: str) -> str:
    """Without an end that may be the first bytes of a character."""
    num_incomplete = len(text) - len(text.rstrip(REPLACEMENT))
    return text[: len(text) - min(num_incomplete, MAX_INCOMPLETE)]
