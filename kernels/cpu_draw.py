"""Choosing tokens on the CPU: one call for all rows of logits, each row by itself.

The formulas are docs/sampling.md's. What the sampler does before, to some rows only, comes as
logits of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdrt import _C

# How a row's token is chosen, and what comes of it; csrc/draw.h says what their fields are.
ROW: np.dtype[Any] = _C.DRAW_ROW
DRAWN: np.dtype[Any] = _C.DRAWN


def draw(
    logits: NDArray[np.float32], rows: NDArray[Any], out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """The next token of each row.

    Args:
        logits: [n, vocab_size] float32, contiguous: the model's.
        rows: [n] ROW. What `choice` names must be [vocab_size] float32, contiguous and alive.
        out: [n] DRAWN to write to; new if None. Where a tape records, all three must stay.

    Returns:
        [n] DRAWN: `token`, int32; `logprob`, float32, its log-probability in the model's own
        distribution; `log_total`, float64, log(sum(exp(logits))). For a row that is not all numbers
        both are NaN, and the token is the first NaN or else the first of the largest.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    if logits.ndim != 2 or logits.dtype != np.float32 or not logits.flags.c_contiguous:
        raise ValueError(f"logits are {_said(logits)}, expected a contiguous float32 matrix")
    if logits.shape[1] == 0:
        raise ValueError(f"logits have shape {logits.shape}; there is no token to choose")
    if rows.dtype != ROW or rows.shape != logits.shape[:1] or not rows.flags.c_contiguous:
        raise ValueError(f"rows are {_said(rows)}, expected {len(logits)} of ROW, contiguous")
    if out is None:
        out = np.empty(len(rows), DRAWN)
    elif out.dtype != DRAWN or out.shape != rows.shape or not out.flags.c_contiguous:
        raise ValueError(f"out is {_said(out)}, expected {len(rows)} of DRAWN, contiguous")
    _C.cpu_draw(logits, rows, out)
    return out


def _said(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape} with strides {array.strides}"
