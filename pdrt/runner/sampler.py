"""Chooses each row's next token from its logits.

Each row is worked on alone and by numpy, in one thread, so its token and log-probability are the
same bits whatever else is in the step. The random number of a token depends on the request's seed
and the token's position alone (pdrt.runner.philox).

    temperature 0      the token with the largest logit, the lowest id among equals
    else               logits / temperature -> the top_k likeliest -> of these the fewest that
                       reach top_p -> inverse of their cumulated probability, in the order of ids
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pdrt.runner.philox import uniform
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Sampled

Floats = NDArray[np.float32]

COLDEST = 1e-5  # a temperature under it is greedy; logits divided by it are still float32


def sample(logits: Floats, params: Sequence[SlotParams], positions: Sequence[int]) -> list[Sampled]:
    """The next token of each row.

    Args:
        logits: [n, vocab_size] float32.
        params: of each row's request.
        positions: of the tokens that are sampled, counted from the prompt's first.

    Returns:
        Tokens with their log-probabilities; NaN for a row whose logits are not all numbers.
    """
    randoms = _randoms(params, positions)
    with np.errstate(invalid="ignore"):  # infinite and NaN logits give a NaN, and no warning
        return [
            _sample_row(row, p, random)
            for row, p, random in zip(logits, params, randoms, strict=True)
        ]


def _randoms(params: Sequence[SlotParams], positions: Sequence[int]) -> list[float]:
    """A number in [0, 1) for each row; a step of greedy rows makes none."""
    if all(p.temperature < COLDEST for p in params):
        return [0.0] * len(params)
    seeds = np.array([p.seed for p in params], np.uint64)
    numbers: list[float] = uniform(seeds, np.array(positions, np.uint32)).tolist()
    return numbers


def _sample_row(logits: Floats, params: SlotParams, random: float) -> Sampled:
    greedy = params.temperature < COLDEST or not np.isfinite(logits.max())
    token = int(logits.argmax()) if greedy else _draw(logits, params, random)
    return Sampled(token, logprob(logits, token))


def logprob(logits: Floats, token: int) -> float:
    """Of one token of one row, before temperature and truncation."""
    shifted = logits - logits.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def _draw(logits: Floats, params: SlotParams, random: float) -> int:
    """One token of one row; `random` is in [0, 1)."""
    scaled = (logits - logits.max()) / np.float32(params.temperature)
    ids = _top_k(scaled, params.top_k)
    weights = np.exp(scaled[ids])
    if params.top_p < 1.0:
        kept = _top_p(weights / weights.sum(), params.top_p)
        ids, weights = ids[kept], weights[kept]
    cumulated = np.cumsum(weights, dtype=np.float64)
    index = np.searchsorted(cumulated, random * cumulated[-1], side="right")
    return int(ids[min(index, len(ids) - 1)])


def _top_k(values: Floats, k: int) -> NDArray[np.intp]:
    """Ids of the k largest, ascending; of equals at the border the lowest ids. k < 1 keeps all."""
    if not 0 < k < len(values):
        return np.arange(len(values))
    border = np.partition(values, -k)[-k]
    above = np.flatnonzero(values > border)
    equal = np.flatnonzero(values == border)
    return np.sort(np.concatenate([above, equal[: k - len(above)]]))


def _top_p(probabilities: Floats, p: float) -> NDArray[np.intp]:
    """Indices, ascending, of the fewest largest probabilities that add up to p."""
    # Those under (1 - p) / n add up to less than 1 - p: none is needed, and few are left to sort.
    likely = np.flatnonzero(probabilities >= (1.0 - p) / len(probabilities))
    order = likely[np.argsort(-probabilities[likely], kind="stable")]
    reached = np.cumsum(probabilities[order], dtype=np.float64) >= p
    count = int(reached.argmax()) + 1 if reached.any() else len(order)
    return np.sort(order[:count])
