"""Log-probabilities as the two OpenAI APIs and vLLM write them.

The engine gives for each token a map from token ids, the chosen one first, then the likeliest by
rank. Where two tokens have the same text and an API has one name for both, the likelier is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pdrt.detokenizer import REPLACEMENT, Detokenizer
from pdrt.request import Logprob, TokenLogprobs
from pdrt.tokenizer import Tokenizer

Json = dict[str, Any]


class Offsets:
    """Where in a choice's text each of its tokens begins.

    A token that is only a part of a character begins where that character does.

    Args:
        prompt_token_ids: what the text follows, and is no part of it.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int] = ()) -> None:
        self.offset = 0
        self._stream = Detokenizer(tokenizer, prompt_token_ids)

    def of(self, token_ids: Sequence[int]) -> list[int]:
        """Those of the next tokens."""
        offsets = []
        for token in token_ids:
            offsets.append(self.offset)
            self.offset += len(self._stream.push(token))
        return offsets


def _wanted(logprobs: TokenLogprobs, count: int) -> Iterator[tuple[int, Logprob]]:
    """The chosen token and the `count` likeliest."""
    for i, (token, value) in enumerate(logprobs.items()):
        if i == 0 or (value.rank is not None and value.rank <= count):
            yield token, value


def completion_logprobs(
    tokenizer: Tokenizer,
    token_ids: Sequence[int],
    logprobs: Sequence[TokenLogprobs | None],
    count: int,
) -> Json:
    """The lists of /v1/completions but for the offsets; None where a token follows nothing."""
    return {
        "tokens": [tokenizer.token_text(token) for token in token_ids],
        "token_logprobs": [None if each is None else _chosen(each).logprob for each in logprobs],
        "top_logprobs": [
            None if each is None else _by_text(tokenizer, each, count) for each in logprobs
        ],
    }


def _chosen(logprobs: TokenLogprobs) -> Logprob:
    return next(iter(logprobs.values()))


def _by_text(tokenizer: Tokenizer, logprobs: TokenLogprobs, count: int) -> dict[str, float]:
    texts: dict[str, float] = {}
    for token, value in _wanted(logprobs, count):
        text = tokenizer.token_text(token)
        texts[text] = max(value.logprob, texts.get(text, value.logprob))
    return texts


def chat_logprobs(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs], count: int
) -> list[Json]:
    """The list `content` of a chat's logprobs."""
    return [_chat_token(tokenizer, each, count) for each in logprobs]


def _chat_token(tokenizer: Tokenizer, logprobs: TokenLogprobs, count: int) -> Json:
    ranked = [(token, v) for token, v in logprobs.items() if v.rank and v.rank <= count]
    ranked.sort(key=lambda pair: pair[1].rank or 0)
    chosen = _entry(tokenizer, next(iter(logprobs)), _chosen(logprobs))
    return {**chosen, "top_logprobs": [_entry(tokenizer, *pair) for pair in ranked]}


def _entry(tokenizer: Tokenizer, token: int, value: Logprob) -> Json:
    """`bytes` is None for a token that is only a part of a character."""
    text = tokenizer.token_text(token)
    whole = None if REPLACEMENT in text else list(text.encode())
    return {"token": text, "logprob": value.logprob, "bytes": whole}


def prompt_logprobs(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs | None]
) -> list[Json | None]:
    """vLLM's field: for each token of the prompt a map from token ids."""

    def named(each: TokenLogprobs) -> Json:
        return {
            str(token): {
                "logprob": value.logprob,
                "rank": value.rank,
                "decoded_token": tokenizer.token_text(token),
            }
            for token, value in each.items()
        }

    return [None if each is None else named(each) for each in logprobs]
