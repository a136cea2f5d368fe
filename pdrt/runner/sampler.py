"""Chooses each row's next token from its logits; docs/sampling.md has the formulas.

Each row is worked on alone and by numpy, in one thread, so its token and log-probability are the
same bits whatever else is in the step. The random number of a token depends on the request's seed
and the token's position alone (pdrt.runner.philox).

    logits -> adjusted (pdrt.runner.logits): bias, penalties, bans
    temperature 0      the token with the largest of them, the lowest id among equals
    else               / temperature -> min_p -> top_k -> of these the fewest that reach top_p
                       -> inverse of their cumulated probability, in the order of ids
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from pdrt.runner.logits import Context, adjusted
from pdrt.runner.philox import uniform
from pdrt.runner.scores import largest
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Sampled

Floats = NDArray[np.float32]

COLDEST = 1e-5  # a temperature under it is greedy; logits divided by it are still float32


def sample(
    logits: Floats, contexts: Sequence[Context], eos_token_ids: Collection[int] = ()
) -> list[Sampled]:
    """The next token of each row.

    Args:
        logits: [n, vocab_size] float32.
        contexts: of each row's request.
        eos_token_ids: tokens that end a request of this model.

    Returns:
        Tokens with their log-probabilities; NaN for a row whose logits are not all numbers.
    """
    randoms = _randoms(contexts)
    with np.errstate(invalid="ignore"):  # infinite and NaN logits give a NaN, and no warning
        return [
            _sample_row(row, context, eos_token_ids, random)
            for row, context, random in zip(logits, contexts, randoms, strict=True)
        ]


def _randoms(contexts: Sequence[Context]) -> list[float]:
    """A number in [0, 1) for each row; a step of greedy rows makes none."""
    if all(c.params.temperature < COLDEST for c in contexts):
        return [0.0] * len(contexts)
    seeds = np.array([c.params.seed for c in contexts], np.uint64)
    positions = np.array([c.position for c in contexts], np.uint32)
    numbers: list[float] = uniform(seeds, positions).tolist()
    return numbers


def _sample_row(
    logits: Floats, context: Context, eos_token_ids: Collection[int], random: float
) -> Sampled:
    if not np.isfinite(logits.max()):
        return Sampled(int(logits.argmax()), math.nan)
    choice = adjusted(logits, context, eos_token_ids)
    greedy = context.params.temperature < COLDEST
    token = int(choice.argmax()) if greedy else _draw(choice, context.params, random)
    return Sampled(token, logprob(logits, token))


def logprob(logits: Floats, token: int) -> float:
    """Of one token of one row, in the model's own distribution."""
    shifted = logits - logits.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def _draw(logits: Floats, params: SlotParams, random: float) -> int:
    """One token of one row; `random` is in [0, 1)."""
    scaled = (logits - logits.max()) / np.float32(params.temperature)
    ids = np.arange(len(scaled))
    if params.min_p > 0.0:
        ids = np.flatnonzero(scaled >= np.float32(math.log(params.min_p)))
    if params.top_k > 0:
        ids = ids[largest(scaled[ids], params.top_k)]
    weights = np.exp(scaled[ids])
    if params.top_p < 1.0:
        kept = _top_p(weights / weights.sum(), params.top_p)
        ids, weights = ids[kept], weights[kept]
    cumulated = np.cumsum(weights, dtype=np.float64)
    index = np.searchsorted(cumulated, random * cumulated[-1], side="right")
    return int(ids[min(index, len(ids) - 1)])


def _top_p(probabilities: Floats, p: float) -> NDArray[np.intp]:
    """Indices, ascending, of the fewest largest probabilities that add up to p."""
    # Those under (1 - p) / n add up to less than 1 - p: none is needed, and few are left to sort.
    likely = np.flatnonzero(probabilities >= (1.0 - p) / len(probabilities))
    order = likely[np.argsort(-probabilities[likely], kind="stable")]
    reached = np.cumsum(probabilities[order], dtype=np.float64) >= p
    count = int(reached.argmax()) + 1 if reached.any() else len(order)
    return np.sort(order[:count])
