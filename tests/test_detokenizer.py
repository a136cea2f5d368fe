"""Streams of text: the pieces make the whole, no character comes in parts, no prompt again.

Over the two kinds of vocabularies: bytes written as letters (GPT-2's manner), where a token may end
within a character, and words with single bytes to fall back on (SentencePiece's manner).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from pdrt.byte_tokens import ByteTokens
from pdrt.detokenizer import REPLACEMENT, WINDOW, Detokenizer
from pdrt.tokenizer import Tokenizer

END = "<|end|>"
KINDS = ("byte-level", "sentencepiece")
TEXT = st.text(
    st.sampled_from("ab é☃\N{PARTY POPPER}春了\u202e\n'") | st.characters(exclude_categories=["Cs"])
)
some = settings(max_examples=150, deadline=None, derandomize=True)


def byte_level() -> tokenizers.Tokenizer:
    """Bytes, and merges of which some end or begin within a character."""
    vocab = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("a", "b"), ("Ġ", "a"), ("Ã", "©"), ("â", "ĺ"), ("ð", "Ł"), ("Ł", "İ"), ("Ġ", "â")]
    for pair in merges:
        vocab.setdefault("".join(pair), len(vocab))
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """A few characters; all others are bytes."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "春", "ab", "▁a"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [("a", "b"), ("▁", "a")]
    made = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return made


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    import tempfile

    made = byte_level() if kind == "byte-level" else sentencepiece()
    made.add_special_tokens([AddedToken(END, normalized=False, special=True)])
    with tempfile.TemporaryDirectory() as folder:
        made.save(f"{folder}/tokenizer.json")
        return Tokenizer(Path(folder))


def pieces(kind: str, ids: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    stream = Detokenizer(tokenizer(kind), prompt)
    return [*(stream.push(token) for token in ids), stream.finish()]


def num_whole(kind: str, ids: Sequence[int], count: int) -> int:
    """Characters that the first `count` tokens make whole."""
    decode = tokenizer(kind).decode
    starts = (decode(ids[:i]) for i in range(count, -1, -1))
    return next(len(text) for text in starts if REPLACEMENT not in text)


@pytest.mark.parametrize("kind", KINDS)
@some
@given(text=TEXT.filter(lambda text: REPLACEMENT not in text), cut=st.integers(0, 40))
def test_the_pieces_make_what_the_prompt_did_not(kind: str, text: str, cut: int) -> None:
    ids = tokenizer(kind).encode(text)
    cut = min(cut, len(ids))
    parts = pieces(kind, ids[cut:], ids[:cut])
    assert "".join(parts) == tokenizer(kind).decode(ids)[num_whole(kind, ids, cut) :]
    assert REPLACEMENT not in "".join(parts)


@pytest.mark.parametrize("kind", KINDS)
@some
@given(prompt=st.lists(st.integers(0, 255), max_size=20), text=st.text("ab ", min_size=1))
def test_a_prompt_of_any_bytes_is_not_given_again(kind: str, prompt: list[int], text: str) -> None:
    first = tokenizer(kind).encode("a")[-1:]  # a letter, so that no character of the prompt goes on
    ids = [*first, *tokenizer(kind).encode("a" + text)[len(tokenizer(kind).encode("a")) :]]
    whole = tokenizer(kind).decode([*tokenizer(kind).encode("ab"), *ids])
    expected = whole.removeprefix("ab")
    assert "".join(pieces(kind, ids, [*tokenizer(kind).encode("ab"), *prompt])) == expected


@some
@given(data=st.binary(max_size=60), text=st.sampled_from(["", "ab", "ab ab"]))
def test_single_bytes_come_as_characters_where_they_are_any(data: bytes, text: str) -> None:
    before = tokenizer("sentencepiece").encode("a")
    ids = [byte + 1 for byte in data]  # after <unk>
    parts = pieces("sentencepiece", ids, before)
    assert "".join(parts) == data.decode(errors="replace")


@some
@given(ids=st.lists(st.integers(0, 262), max_size=80))
def test_any_tokens_come_as_the_library_decodes_them(ids: list[int]) -> None:
    assert "".join(pieces("byte-level", ids)) == tokenizer("byte-level").decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_comes_with_its_last_token(kind: str) -> None:
    ids = tokenizer(kind).encode("a\N{SNOWMAN}é\N{PARTY POPPER}b")
    given, read = "", 0
    for i, piece in enumerate(pieces(kind, ids)[:-1]):
        given += piece
        read = num_whole(kind, ids, i + 1)
        assert given == tokenizer(kind).decode(ids)[:read]


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_after_special_tokens_is_kept(kind: str) -> None:
    end = tokenizer(kind).encode(END, add_special_tokens=False)[-1]
    prompt = [*tokenizer(kind).encode("ab"), *[end] * 20]
    space = tokenizer(kind).encode("b a")[-1:]
    assert "".join(pieces(kind, space, prompt)) == " a"


def test_long_runs_of_bytes_are_given_as_they_come() -> None:
    text = "\N{PARTY POPPER}\N{SNOWMAN}" * WINDOW
    parts = pieces("sentencepiece", tokenizer("sentencepiece").encode(text))
    assert "".join(parts) == text
    assert sum(map(bool, parts)) == len(text)


def test_tokens_that_only_look_like_bytes_are_text(tmp_path: Path) -> None:
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    made = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<0x00>"))
    made.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path).bytes_of(65) is None
    assert tokenizer("sentencepiece").bytes_of(66) == b"A"


def test_a_byte_level_token_is_bytes_whatever_is_beside_it() -> None:
    made = tokenizer("byte-level")
    snowman = made.encode("\N{SNOWMAN}")
    assert len(snowman) > 1, "a character in parts"
    assert b"".join(made.bytes_of(token) or b"" for token in snowman).decode() == "\N{SNOWMAN}"
    end, unknown = made.encode(END, add_special_tokens=False)[-1], 10**6
    assert made.bytes_of(end) == made.bytes_of(unknown) == b""


def test_an_added_token_of_any_letters_is_its_text() -> None:
    made = byte_level()
    made.add_tokens(["\N{SNOWMAN} man"])
    token = made.token_to_id("\N{SNOWMAN} man")
    data = ByteTokens(made).of(token)
    assert data is not None and data.decode() == made.decode([token]) == "\N{SNOWMAN} man"


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_within_a_character_do_not_break_it(kind: str) -> None:
    *first, last = tokenizer(kind).encode("\N{PARTY POPPER}")
    end = tokenizer(kind).encode(END, add_special_tokens=False)[-1]
    assert "".join(pieces(kind, [*first, end, last])).strip() == "\N{PARTY POPPER}"


class Counting:
    """A tokenizer that counts the tokens that it is given to decode."""

    def __init__(self, counted: Tokenizer) -> None:
        self.num_decoded = 0
        self._tokenizer = counted
        self.bytes_of = counted.bytes_of

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        self.num_decoded += len(token_ids)
        return self._tokenizer.decode(token_ids, skip_special_tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_special_tokens_costs_little(kind: str) -> None:
    end = tokenizer(kind).encode(END, add_special_tokens=False)[-1]
    counting = Counting(tokenizer(kind))
    stream = Detokenizer(counting, tokenizer(kind).encode("ab"))
    assert "".join(stream.push(end) for _ in range(1000)) == ""
    assert counting.num_decoded < 100


def test_replacement_characters_that_are_tokens_are_given_and_let_go(tmp_path: Path) -> None:
    made = sentencepiece()
    made.add_tokens([REPLACEMENT])
    made.save(str(tmp_path / "tokenizer.json"))
    tokens, a = Tokenizer(tmp_path), made.encode("a").ids
    counting = Counting(tokens)
    stream = Detokenizer(counting, a)
    ids = [made.token_to_id(REPLACEMENT)] * 500
    text = "".join([*(stream.push(token) for token in [*ids, *a]), stream.finish()])
    assert text == tokens.decode([*a, *ids, *a]).removeprefix("a")
    assert counting.num_decoded < 100 * len(ids)


@pytest.mark.parametrize("num_ends", [0, 1, 6, 7, 8, 30])
def test_a_character_that_the_prompt_begins_is_whole_after_any_special_tokens(
    num_ends: int,
) -> None:
    *first, last = tokenizer("byte-level").encode("\N{PARTY POPPER}")
    end = tokenizer("byte-level").encode(END, add_special_tokens=False)[-1]
    prompt = [*tokenizer("byte-level").encode("ab"), *first, *[end] * num_ends]
    assert "".join(pieces("byte-level", [last], prompt)) == "\N{PARTY POPPER}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [b"\xed\xa0", b"\xed\xbf", b"\xed", b"\xf0\x9f\x8e"])
def test_what_a_prompts_last_bytes_come_to_is_not_given(kind: str, end: bytes) -> None:
    """The first two are halves of a surrogate: two replacement characters that come together."""
    made = tokenizer(kind)
    ids = {made.bytes_of(token): token for token in range(263)}
    letter = made.encode("bb")[-1:]
    prompt = [*made.encode("ab"), *(ids[bytes([byte])] for byte in end)]
    assert "".join(pieces(kind, letter, prompt)) == "b"
    assert "".join(pieces(kind, [], prompt)) == ""
