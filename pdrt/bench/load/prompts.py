"""Random prompts of known lengths: with a tokenizer to the token, without one to the word.

Prompts are made of whole words, each one token with a space before it: such a text is cut into the
same tokens again, so that a chat, which is sent as text, has the length that was asked for too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tokenizers

from pdrt.errors import ModelError

MIN_WORDS = 64  # a vocabulary with fewer of them is not one of words
_WORD = re.compile("[Ġ▁][A-Za-z]+")  # a space, as byte-level BPE and SentencePiece write it
_SYLLABLES = ("ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo")


class Vocabulary:
    """The tokenizer of a checkpoint, as far as prompts need it.

    Attributes:
        ids: tokens that prompts are drawn from: words, or all but special ones where there are
            hardly any words.

    Raises:
        ModelError: `folder` has no tokenizer.json that can be read.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json" if folder.is_dir() else folder
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise ModelError(f"--tokenizer: {path} cannot be read: {error}") from None
        special = set(self._tokenizer.get_added_tokens_decoder())
        named = {id: text for text, id in self._tokenizer.get_vocab().items() if id not in special}
        words = [id for id, text in named.items() if _WORD.fullmatch(text)]
        self.ids = np.array(sorted(words if len(words) >= MIN_WORDS else named))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def random_ids(self, count: int, rng: np.random.Generator) -> list[int]:
        drawn: list[int] = rng.choice(self.ids, count).tolist()
        return drawn

    def random_text(self, count: int, rng: np.random.Generator) -> str:
        """A text of `count` tokens, as near as eight attempts bring it."""
        ids = self.random_ids(count, rng)
        for _ in range(8):
            text: str = self._tokenizer.decode(ids)
            found = self.encode(text)
            if len(found) == count:
                break
            ids = (found + self.random_ids(max(0, count - len(found)), rng))[:count]
        return text


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes prompts as ids where they may be sent as such, else as text.

    vocabulary: None where no tokenizer is known; then a token is taken for a word.
    """

    vocabulary: Vocabulary | None
    as_ids: bool
    words: Sequence[str] = field(
        default_factory=lambda: [a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in "lnrst"]
    )

    def prompt(self, count: int, rng: np.random.Generator) -> str | list[int]:
        """`count` random tokens."""
        if self.vocabulary is None:
            return " " + " ".join(rng.choice(np.array(self.words), count))
        if self.as_ids:
            return self.vocabulary.random_ids(count, rng)
        return self.vocabulary.random_text(count, rng)

    def length(self, text: str) -> int | None:
        """Tokens of a text; None without a tokenizer."""
        return None if self.vocabulary is None else len(self.vocabulary.encode(text))
