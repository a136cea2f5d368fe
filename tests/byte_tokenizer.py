"""A tokenizer whose tokens are bytes, for tests that need no checkpoint; 256 is special."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pdrt.tokenizer import Tokenizer

SPECIAL = 256


class _Bytes:
    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        kept = [t for t in token_ids if t != SPECIAL or not skip_special_tokens]
        parts = (b"<special>" if token == SPECIAL else bytes([token]) for token in kept)
        return b"".join(parts).decode(errors="replace")

    def bytes_of(self, token_id: int) -> bytes | None:
        return None

    def token_text(self, token_id: int) -> str:
        return self.decode([token_id], skip_special_tokens=False)


BYTES = cast(Tokenizer, _Bytes())
