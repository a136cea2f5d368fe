"""Tokenizers rebuilt from the metadata of GGUF files split and decode text as the originals do."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable

import pytest

from pdrt.errors import ModelError
from pdrt.model.gguf_sentencepiece import SPACE
from pdrt.model.gguf_tokenizer import build


def tokenizer_metadata(**changes: object) -> Callable[[str], object]:
    tokens = ["a", "b", "ab", "1", "2", "12", "<s>", "<think>"]
    values: dict[str, object] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "merges": ["a b", "1 2"],
        "token_type": [1, 1, 1, 1, 1, 1, 3, 4],
        "bos_token_id": 6,
    } | changes
    return lambda key: values.get(key.removeprefix("tokenizer.ggml."))


@pytest.mark.parametrize(("pre", "ids"), [("gpt-2", [2, 5]), ("smollm", [2, 3, 4])])
def test_text_is_split_as_the_files_pre_tokenizer_does(pre: str, ids: list[int]) -> None:
    assert build(tokenizer_metadata(pre=pre)).encode("ab12").ids == ids


# "Ċ" is the end of a line and "Ġ" a space, as byte-level BPE writes them; "âĤ¬" is the euro.
LLAMA3_SPLIT = ["I", "'ll", "Ġpay", "Ġ", "123", "45", "ĠâĤ¬ĊĊ", "Ġx", ",y", "ĠĠ", "Ġz", "ĠĠ"]


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
def test_words_are_split_as_llama_3_and_qwen_2_do(pre: str) -> None:
    splitter = build(tokenizer_metadata(pre=pre)).pre_tokenizer
    assert splitter is not None
    pieces = [piece for piece, _ in splitter.pre_tokenize_str("I'll pay 12345 €\n\n x,y   z  ")]
    expected = list(LLAMA3_SPLIT)
    if pre == "qwen2":  # each digit on its own
        expected[4:6] = "12345"
    assert pieces == expected


def test_qwen_2_composes_characters_first() -> None:
    normalizer = build(tokenizer_metadata(pre="qwen2")).normalizer
    assert normalizer is not None
    assert normalizer.normalize_str("u\N{COMBINING DIAERESIS}") == "ü"


def test_llama_3_takes_words_that_are_tokens_and_begins_with_bos() -> None:
    """Without the merge of a and b, "ab" is a token all the same."""
    tokenizer = build(tokenizer_metadata(pre="llama-bpe", merges=["1 2"]))
    assert tokenizer.encode("ab").ids == [6, 2]
    without = build(tokenizer_metadata(pre="llama-bpe", merges=["1 2"], add_bos_token=False))
    assert without.encode("ab").ids == [2]
    assert build(tokenizer_metadata(merges=["1 2"])).encode("ab").ids == [0, 1]


def test_bos_is_added_where_the_file_says_so() -> None:
    tokenizer = build(tokenizer_metadata(add_bos_token=True))
    assert tokenizer.encode("ab").ids == [6, 2]
    assert tokenizer.encode("ab", add_special_tokens=False).ids == [2]


def test_control_tokens_are_hidden_and_added_ones_shown() -> None:
    tokenizer = build(tokenizer_metadata())
    ids = tokenizer.encode("<s>a<think>b").ids
    assert ids == [6, 0, 7, 1]
    assert tokenizer.decode(ids) == "a<think>b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "t5"}, "tokenizer of kind 't5'; only gpt2 and llama"),
        ({"model": "llama"}, "no metadata key tokenizer.ggml.scores"),
        ({"pre": "deepseek-llm"}, "splits text by 'deepseek-llm'"),
        ({"merges": None}, "no metadata key tokenizer.ggml.merges"),
        ({"token_type": None}, "no metadata key tokenizer.ggml.token_type"),
    ],
)
def test_a_tokenizer_that_cannot_be_rebuilt_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        build(tokenizer_metadata(**changes))


# -- SentencePiece --------------------------------------------------------------------------------

LETTERS = "abc"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def pieces_of(seed: int) -> dict[str, float]:
    """A vocabulary of random strings of a few letters and the space, each with its own score."""
    rng = random.Random(seed)
    letters = LETTERS + SPACE
    words = {"".join(rng.choices(letters, k=rng.randint(2, 4))) for _ in range(60)}
    return {piece: -float(i) for i, piece in enumerate([*sorted(words, key=hash_of), *letters])}


def hash_of(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()


def sentencepiece_metadata(pieces: dict[str, float], **changes: object) -> Callable[[str], object]:
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *pieces]
    values: dict[str, object] = {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": [0.0] * (len(tokens) - len(pieces)) + list(pieces.values()),
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "bos_token_id": 1,
        "unknown_token_id": 0,
        "add_bos_token": False,
    } | changes
    return lambda key: values.get(key.removeprefix("tokenizer.ggml."))


def plainly_merged(text: str, pieces: dict[str, float]) -> list[str]:
    """As SentencePiece's paper has it: the best pair of neighbours, the leftmost of equals."""
    parts = list(text)
    while True:
        pairs = [
            (a + b, i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in pieces
        ]
        if not pairs:
            return parts
        merged, at = max(pairs, key=lambda pair: (pieces[pair[0]], -pair[1]))
        parts[at : at + 2] = [merged]


@pytest.mark.parametrize("seed", range(5))
def test_sentencepiece_merges_the_best_neighbours_first(seed: int) -> None:
    pieces, rng = pieces_of(seed), random.Random(seed)
    tokenizer = build(sentencepiece_metadata(pieces))
    for _ in range(50):
        text = "".join(rng.choices(LETTERS + " ", k=20))
        encoded = tokenizer.encode(text)
        assert encoded.tokens == plainly_merged(SPACE + text.replace(" ", SPACE), pieces)
        assert tokenizer.decode(encoded.ids) == text


def test_sentencepiece_spells_what_has_no_token_in_bytes() -> None:
    tokenizer = build(sentencepiece_metadata(pieces_of(0), add_space_prefix=False))
    encoded = tokenizer.encode("é")
    assert encoded.tokens == ["<0xC3>", "<0xA9>"]
    assert tokenizer.decode(encoded.ids) == "é"


def test_sentencepiece_begins_with_bos_and_a_space_unless_the_file_says_otherwise() -> None:
    pieces = {SPACE: -1.0, "a": -2.0}
    usual = build(sentencepiece_metadata(pieces, add_bos_token=None))
    assert usual.encode("a").tokens == ["<s>", SPACE, "a"]
    assert usual.decode(usual.encode("a").ids) == "a"
    bare = build(sentencepiece_metadata(pieces, add_space_prefix=False))
    assert bare.encode("a</s>").tokens == ["a", "</s>"]
