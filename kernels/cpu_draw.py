"""Choosing tokens on the CPU: one call for all rows of logits, each row by itself.

The formulas are docs/sampling.md's. What the sampler does before, to some rows only, comes as
logits of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdrt import _C

# How a row's token is chosen; csrc/draw.h says what its fields are.
ROW: np.dtype[Any] = _C.DRAW_ROW


def draw(logits: NDArray[np.float32], rows: NDArray[Any]) -> NDArray[Any]:
    """The next token of each row.

    Args:
        logits: [n, vocab_size] float32, contiguous: the model's.
        rows: [n] ROW. What `choice` names must be [vocab_size] float32, contiguous and alive.

    Returns:
        [n] of three fields: `token`, int32; `logprob`, float32, its log-probability in the model's
        own distribution; `log_total`, float64, log(sum(exp(logits))). For a row that is not all
        numbers both are NaN, and the token is the first NaN or else the first of the largest.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    if logits.ndim != 2 or logits.dtype != np.float32 or not logits.flags.c_contiguous:
        raise ValueError(f"logits are {_said(logits)}, expected a contiguous float32 matrix")
    if logits.shape[1] == 0:
        raise ValueError(f"logits have shape {logits.shape}; there is no token to choose")
    if rows.dtype != ROW or rows.shape != logits.shape[:1] or not rows.flags.c_contiguous:
        raise ValueError(f"rows are {_said(rows)}, expected {len(logits)} of ROW, contiguous")
    return _C.cpu_draw(logits, rows)


def _said(array: NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape} with strides {array.strides}"
