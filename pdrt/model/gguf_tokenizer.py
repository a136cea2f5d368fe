"""Rebuilds a tokenizer from the metadata of a GGUF file: byte-level BPE or SentencePiece.

For byte-level BPE the file holds vocabulary, merges and the kind of each token, but of the
pre-tokenizer only a name. How text is split before merging decides the tokens, so a name that is
not known here is an error: a guess would tokenise almost right, and numbers wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from pdrt.errors import ModelError
from pdrt.model.gguf_file import token_id
from pdrt.model.gguf_sentencepiece import sentencepiece

Get = Callable[[str], object]

KINDS = ("gpt2", "llama")  # byte-level BPE, SentencePiece

# Names of pre-tokenizers, by how they split text before the merges.
GPT2 = ("gpt-2", "phi-2")
SINGLE_DIGITS = ("smollm", "starcoder", "codeshell", "refact")  # as GPT-2, each digit on its own
LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
QWEN2 = ("qwen2",)


def write_tokenizer(get: Get, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    Args:
        get: reads one metadata key; None where the file does not have it.

    Raises:
        ModelError: the tokenizer is of a kind that cannot be rebuilt.
    """
    build(get).save(str(folder / "tokenizer.json"))
    tokens = _list(get, "tokens")

    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _token(get, "bos_token_id", tokens),
        "eos_token": _token(get, "eos_token_id", tokens),
        "unk_token": _token(get, "unknown_token_id", tokens),
        "pad_token": _token(get, "padding_token_id", tokens),
        "chat_template": get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps({k: v for k, v in config.items() if v is not None}, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n")


def build(get: Get) -> Tokenizer:
    """The tokenizer that the metadata describes. Raises ModelError as `write_tokenizer` does."""
    kind = get("tokenizer.ggml.model")
    if kind not in KINDS:
        raise ModelError(
            f"the GGUF file has a tokenizer of kind {kind!r}; only {' and '.join(KINDS)} are "
            "rebuilt; use the model's folder with tokenizer.json"
        )
    tokens, types = _list(get, "tokens"), _list(get, "token_type")
    try:
        if kind == "llama":
            tokenizer = _sentencepiece(get, tokens, types)
        else:
            tokenizer = _byte_level(get, tokens)
    except ModelError:
        raise
    except Exception as error:  # the library raises nothing more exact
        raise ModelError(f"the GGUF file's vocabulary or merges are damaged: {error}") from None
    _add_bos(tokenizer, get, tokens)
    _add_whole_tokens(tokenizer, tokens, types)
    return tokenizer


def _token(get: Get, name: str, tokens: Sequence[str]) -> str | None:
    number = token_id(get, name, len(tokens))
    return None if number is None else tokens[number]


def _byte_level(get: Get, tokens: Sequence[str]) -> Tokenizer:
    merges = [(left, right) for left, _, right in (m.partition(" ") for m in _list(get, "merges"))]
    pre = get("tokenizer.ggml.pre")
    vocab = {token: i for i, token in enumerate(tokens)}
    # Llama 3 takes a word that is a token as it is, whatever the merges would make of it.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in LLAMA3))
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    if pre in QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _sentencepiece(get: Get, tokens: Sequence[str], types: Sequence[object]) -> Tokenizer:
    every = zip(tokens, _list(get, "scores"), types, strict=True)
    scores = {
        token: score
        for token, score, kind in every
        if kind in (TokenType.NORMAL, TokenType.USER_DEFINED)
    }
    prefix = get("tokenizer.ggml.add_space_prefix")
    return sentencepiece(
        tokens, scores, _token(get, "unknown_token_id", tokens), prefix is not False
    )


def _pre_tokenizer(name: object) -> pre_tokenizers.PreTokenizer:
    if name in GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, _pre_tokenizer(GPT2[0])])
    if name in (*LLAMA3, *QWEN2):
        words = Regex(_words(digits=3 if name in LLAMA3 else 1))
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(words, behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    known = ", ".join((*GPT2, *SINGLE_DIGITS, *LLAMA3, *QWEN2))
    raise ModelError(
        f"the GGUF file splits text by {name!r}; known are {known}; use the model's folder with "
        "tokenizer.json"
    )


def _words(digits: int) -> str:
    """How Llama 3 and Qwen 2 split text: contractions, words with the one character before them,
    numbers in groups of at most `digits`, other characters, ends of lines, spaces."""
    number = r"\p{N}" if digits == 1 else rf"\p{{N}}{{1,{digits}}}"
    return "|".join(
        (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"[^\r\n\p{L}\p{N}]?\p{L}+",
            number,
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    )


def _add_bos(tokenizer: Tokenizer, get: Get, tokens: Sequence[str]) -> None:
    bos, add = token_id(get, "bos_token_id", len(tokens)), get("tokenizer.ggml.add_bos_token")
    if add is None:  # older files do not say; these models begin every text with one
        add = get("tokenizer.ggml.model") == "llama" or get("tokenizer.ggml.pre") in LLAMA3
    if not add or bos is None:
        return
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{tokens[bos]}:0 $A:0",
        pair=f"{tokens[bos]}:0 $A:0 $B:1",
        special_tokens=[(tokens[bos], bos)],
    )


def _add_whole_tokens(tokenizer: Tokenizer, tokens: Sequence[str], kinds: Sequence[object]) -> None:
    """Tokens that are matched whole in the text: control tokens, hidden in decoded text, and those
    that the model's makers added, shown in it."""
    pairs = list(zip(tokens, kinds, strict=True))
    control = [t for t, kind in pairs if kind == TokenType.CONTROL]
    added = [t for t, kind in pairs if kind == TokenType.USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in added])


def _list(get: Get, key: str) -> list[Any]:
    value = get(f"tokenizer.ggml.{key}")
    if not isinstance(value, list):
        raise ModelError(f"the GGUF file has no metadata key tokenizer.ggml.{key}")
    return value
