"""Rebuilds a SentencePiece tokenizer (Llama 2, Mistral) from the metadata of a GGUF file.

SentencePiece merges the two neighbours whose joint token has the highest score, until none is left.
As byte-level BPE is told its merges in order, they are listed by falling score: every way to split
a token into two others is one. Spaces are U+2581, and what has no token is spelled in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def sentencepiece(
    tokens: Sequence[str], scores: Mapping[str, float], unknown: str | None, space_prefix: bool
) -> Tokenizer:
    """The tokenizer without special tokens.

    Args:
        scores: of the tokens that text may become; the higher, the earlier it is merged.
        unknown: the token for what has no token and no bytes.
        space_prefix: whether each text begins with a space of its own.
    """
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=list(_merges(scores)),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    if space_prefix:
        steps.insert(0, normalizers.Prepend(SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    pieces: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback()]
    pieces.append(decoders.Fuse())
    if space_prefix:
        pieces.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(pieces)
    return tokenizer


def _merges(scores: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Pairs of tokens that make a token, those of the highest score first."""
    for token in sorted(scores, key=lambda token: -scores[token]):
        for at in range(1, len(token)):
            if token[:at] in scores and token[at:] in scores:
                yield token[:at], token[at:]
