"""What the model thought of tokens: their log-probabilities, and the likeliest beside them.

Of the model's own distribution, before any sampling parameter. Natural logarithms, float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pdrt.kernels.cpu_draw import ROW, draw
from pdrt.sched.plan import Scores

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


def score(logits: Floats, tokens: Ints, start: int, num_top: int) -> Scores:
    """Scores of the tokens at positions start, start + 1, ...; NaN where a logit of the row is.

    Args:
        logits: [n, vocab_size] float32, each row those of the position before the token.
        tokens: [n] int32.
        num_top: how many of the likeliest to name, at most the vocabulary.
    """
    log_totals = draw(logits, np.zeros(len(logits), ROW))["log_total"]
    top = np.array([top_ids(row, num_top) for row in logits], np.int32)
    top = top.reshape(len(logits), num_top)
    return Scores(
        start,
        logprobs_of(logits, tokens[:, None], log_totals)[:, 0],
        top,
        logprobs_of(logits, top, log_totals),
    )


def logprobs_of(logits: Floats, ids: Ints, log_totals: NDArray[np.float64]) -> Floats:
    """log(exp(x) / sum(exp(x))) of some tokens of each row: ids [n, k] -> [n, k].

    Args:
        log_totals: [n], of pdrt.kernels.cpu_draw.
    """
    values = np.take_along_axis(logits, ids.astype(np.intp), axis=1)
    result: Floats = (values - log_totals[:, None]).astype(np.float32)
    return result


def top_ids(values: Floats, count: int) -> NDArray[np.intp]:
    """Ids of the largest values of one row, largest first; of equals the lowest id first."""
    ids = largest(values, count)
    return ids[np.argsort(-values[ids], kind="stable")]


def largest(values: Floats, count: int) -> NDArray[np.intp]:
    """Ids of the largest values of one row, ascending; of equals at the border the lowest ids.

    Of a row with NaN, which has no largest value, the first ids.
    """
    if count >= len(values):
        return np.arange(len(values))
    if count < 1:
        return np.empty(0, np.intp)
    border = np.partition(values, -count)[-count]
    above = np.flatnonzero(values > border)
    equal = np.flatnonzero(values == border)
    found = np.sort(np.concatenate([above, equal[: count - len(above)]]))
    return found if len(found) == count else np.arange(count)  # NaN is neither above nor equal
