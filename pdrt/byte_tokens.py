"""What tokens stand for as bytes, where it does not matter what is before and after them."""

from __future__ import annotations

import tokenizers


class ByteTokens:
    """The bytes of the tokens of one vocabulary, each worked out when it is first asked for.

    In GPT-2's manner, tokens write bytes as letters, so all of them have bytes; those that are not
    in the vocabulary have none, b"". In SentencePiece's manner, those such as <0xE2> are bytes, and
    what the text of others is depends on what is before them. Special tokens have none in either.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._is_byte_level = isinstance(tokenizer.decoder, tokenizers.decoders.ByteLevel)
        added = tokenizer.get_added_tokens_decoder().items()
        self._known = {token: b"" for token, each in added if each.special}
        if not self._is_byte_level:
            self._known |= _single_bytes(tokenizer)

    def of(self, token_id: int) -> bytes | None:
        """None for a token whose text depends on its neighbours."""
        data = self._known.get(token_id)
        if data is None and self._is_byte_level:
            letters = self._tokenizer.id_to_token(token_id) or ""
            data = self._known[token_id] = _from_letters(letters)
        return data


def bytes_in_order() -> list[str]:
    """The character that stands for each byte, as byte-level BPE writes them.

    Printable bytes of Latin-1 stand for themselves, the others, in order, for U+0100 and on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_BYTE_OF = {letter: byte for byte, letter in enumerate(bytes_in_order())}


def _from_letters(letters: str) -> bytes:
    """An added token that has other letters is text, as the library has it."""
    try:
        return bytes([_BYTE_OF[letter] for letter in letters])
    except KeyError:
        return letters.encode()


def _single_bytes(tokenizer: tokenizers.Tokenizer) -> dict[int, bytes]:
    """Tokens such as <0xE2>, where they are bytes and not a text that looks like one."""
    found: dict[int, bytes] = {}
    for byte in range(256):
        token = tokenizer.token_to_id(f"<0x{byte:02X}>")
        if token is not None:
            found[token] = bytes([byte])
    is_decoded = any(data == b"A" and tokenizer.decode([t]) == "A" for t, data in found.items())
    return found if is_decoded else {}
