"""What sampling parameters do to a row of logits before a token is drawn; docs/sampling.md.

    bias -> repetition -> presence and frequency -> bans

All of it follows from the request's parameters and tokens, and both lie in its slot: a token that
is sampled again after a preemption, or by another worker, is chosen from the same numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from pdrt.sampling_params import SlotParams

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_NO_TOKENS: Ints = np.empty(0, np.int32)  # nothing in it could be changed


class Context(msgspec.Struct, frozen=True):
    """What a token is chosen by, beside its logits.

    Attributes:
        position: of the token, counted from the prompt's first.
        tokens: [position] int32, prompt and output; empty where `params.reads_tokens` is false.
    """

    params: SlotParams
    position: int
    tokens: Ints = msgspec.field(default_factory=lambda: _NO_TOKENS)
    num_prompt_tokens: int = 0

    @property
    def output(self) -> Ints:
        return self.tokens[self.num_prompt_tokens :]


def is_adjusted(params: SlotParams) -> bool:
    """Whether `adjusted` may change anything."""
    return bool(params.logit_bias) or params.reads_tokens


def adjusted(logits: Floats, context: Context, eos_token_ids: Collection[int]) -> Floats:
    """The logits that a token is chosen from: [vocab_size], a copy."""
    params = context.params
    logits = logits.copy()
    for token, bias in params.logit_bias.items():
        logits[token] += np.float32(bias)
    if params.repetition_penalty != 1.0:
        _penalise_repetition(logits, context.tokens, params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        counts = np.bincount(context.output)
        seen = np.flatnonzero(counts)
        penalties = params.presence_penalty + params.frequency_penalty * counts[seen]
        logits[seen] -= penalties.astype(np.float32)
    logits[list(banned(context, eos_token_ids))] = -np.inf
    return logits


def _penalise_repetition(logits: Floats, tokens: Ints, penalty: float) -> None:
    """Keskar et al., "CTRL", 2019, and as everywhere since: a negative logit is multiplied."""
    seen = np.flatnonzero(np.bincount(tokens))
    values, by = logits[seen], np.float32(penalty)
    logits[seen] = np.where(values > 0, values / by, values * by)


def banned(context: Context, eos_token_ids: Collection[int]) -> Iterator[int]:
    """Tokens that would end the request too early, or complete a bad word."""
    params, output = context.params, context.output
    if len(output) < params.min_tokens:
        yield from params.stop_token_ids
        if not params.ignore_eos:
            yield from eos_token_ids
    for *before, last in params.bad_words:
        if len(output) >= len(before) and output[len(output) - len(before) :].tolist() == before:
            yield last
