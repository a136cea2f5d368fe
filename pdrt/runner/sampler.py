"""Chooses each row's next token from its logits; docs/sampling.md has the formulas.

Each row is worked on alone, so its token and log-probability are the same bits whatever else is in
the step. The random number of a token depends on the request's seed and the token's position alone
(csrc/philox.h).

    logits -> adjusted (pdrt.runner.logits): bias, penalties, bans
    -> pdrt.kernels.cpu_draw, one call for all rows:
    temperature 0      the token with the largest of them, the lowest id among equals
    else               / temperature -> min_p -> top_k -> of these the fewest that reach top_p
                       -> inverse of their cumulated probability, in the order of ids
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdrt.kernels.cpu_draw import ROW, draw
from pdrt.runner.logits import Context, adjusted, is_adjusted
from pdrt.sched.plan import Sampled

Floats = NDArray[np.float32]
Row = tuple[int, int, float, float, float, int, int]  # the fields of ROW

COLDEST = 1e-5  # a temperature under it is greedy; logits divided by it are still float32


def sample(
    logits: Floats, contexts: Sequence[Context], eos_token_ids: Collection[int] = ()
) -> list[Sampled]:
    """The next token of each row.

    Args:
        logits: [n, vocab_size] float32, contiguous.
        contexts: of each row's request.
        eos_token_ids: tokens that end a request of this model.

    Returns:
        Tokens with their log-probabilities; NaN for a row whose logits are not all numbers.
    """
    choices = {
        i: _choice(logits[i], context, eos_token_ids)
        for i, context in enumerate(contexts)
        if is_adjusted(context.params)
    }
    rows = [_row(context, choices.get(i)) for i, context in enumerate(contexts)]
    return sampled(draw(logits, np.array(rows, ROW)))  # reads the choices by their addresses


def plain_rows(contexts: Sequence[Context]) -> list[Row] | None:
    """How each token is chosen; None where a request's parameters change the model's logits."""
    if any(is_adjusted(context.params) for context in contexts):
        return None
    return [_row(context, None) for context in contexts]


def sampled(drawn: NDArray[Any]) -> list[Sampled]:
    """From [n] DRAWN."""
    return list(map(Sampled, drawn["token"].tolist(), drawn["logprob"].tolist()))


def _choice(logits: Floats, context: Context, eos_token_ids: Collection[int]) -> Floats:
    """What a row chooses from whose parameters change its logits."""
    # Infinite and NaN logits are told from the model's own; a tiny penalty may make more.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        return adjusted(logits, context, eos_token_ids)


def _row(context: Context, choice: Floats | None) -> Row:
    params = context.params
    return (
        0 if choice is None else choice.ctypes.data,
        params.seed,
        params.top_p,
        0.0 if params.temperature < COLDEST else params.temperature,
        math.log(params.min_p) if params.min_p > 0.0 else -math.inf,
        params.top_k,
        context.position,
    )
