"""Chooses each row's next token from its logits, on the GPU, as docs/sampling.md defines it.

    from pdrt.kernels.sample import SampleParams, sample

    result = sample(logits, SampleParams(temperature, top_k, top_p, min_p, seeds, positions))
    result.tokens  # [num_rows] int32, on the device

    logits -> edits (sample_edits.py) -> scan -> threshold (sample_threshold.py) -> weigh -> draw

A row's token depends on its logits, its parameters, its seed and its position alone, bit by bit: on
neither the other rows nor their number. Nothing waits for the device, and the launches follow from
shapes and from what the host said of the batch, so a step can be a CUDA graph. A batch that is
greedy is two launches that read the logits once; rows without edits are not copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from pdrt.kernels.gpu_checks import check_array, check_matrix
from pdrt.kernels.launch import OPTIONS
from pdrt.kernels.sample_draw import WARPS, draw_kernel, likeliest_kernel, scan_kernel, weigh_kernel
from pdrt.kernels.sample_edits import Edits, check_edits, edited_logits
from pdrt.kernels.sample_rows import TILE, Tiles, empty_tiles
from pdrt.kernels.sample_threshold import threshold

MAX_ROWS = 65535
MAX_VOCAB = 262144
_DTYPES = {"top_k": torch.int32, "seeds": torch.int64, "positions": torch.int32}


@dataclass(frozen=True)
class SampleParams:
    """Parameters of each row, [num_rows] tensors on the device of the logits.

    Attributes:
        temperature: float64; under 1e-5 the row is greedy, and of the others nothing counts.
        top_k: int32; 0 or less keeps all.
        top_p: float64 in (0, 1].
        min_p: float64 in [0, 1].
        seeds: int64.
        positions: int32, of the token that is drawn, counted from the prompt's first.
        greedy: the host knows that all rows are; saves their threshold and weights.
        filtered: the host does not know that no row has top_k, top_p or min_p.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    positions: Tensor
    greedy: bool = False
    filtered: bool = True


class SampleResult(NamedTuple):
    """Log-probabilities are those of the model's own distribution, natural logarithms, float32."""

    tokens: Tensor  # [num_rows] int32
    logprobs: Tensor  # [num_rows], of the tokens; NaN where a row's logits are not all numbers
    top_ids: Tensor | None  # [num_rows, num_top] int32, likeliest first, of equals the lowest id
    top_logprobs: Tensor | None  # [num_rows, num_top]


def sample(
    logits: Tensor, params: SampleParams, edits: Edits | None = None, num_top: int = 0
) -> SampleResult:
    """The next token of each row, its log-probability, and the num_top likeliest tokens.

    Token ids in edits are not looked at on the host: they must be of the vocabulary.

    Args:
        logits: [num_rows, vocab_size] float32, bfloat16 or float16, contiguous; not changed.
        edits: biases, bans and penalties of those rows that have any.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    num_rows, vocab_size = _check(logits, params, num_top)
    if edits is not None:
        check_edits(edits, logits)
    result = _empty_result(num_rows, num_top, logits.device)
    if num_rows == 0:
        return result
    with torch.cuda.device_of(logits):
        source: tuple[Tensor, Tensor | None, Tensor | None] = (logits, None, None)
        if edits is not None and len(edits.rows):
            source = (logits, *edited_logits(logits, edits))
        tiles = empty_tiles(num_rows, triton.cdiv(vocab_size, TILE), logits.device)
        grid, options = (tiles.best.shape[1], num_rows), {"num_warps": WARPS, **OPTIONS}
        scan_kernel[grid](*source, *tiles, vocab_size, TILE, **options)
        if params.greedy:
            drawing: tuple[Any, ...] = (None,) * 7
        else:
            drawing = _weighed(source, params, tiles, options)
        sizes = (vocab_size, tiles.best.shape[1], TILE)
        draw_kernel[(num_rows,)](
            *source, *tiles, *drawing, *result[:2], *sizes, params.greedy, **options
        )
        if num_top:
            likeliest_kernel[(num_rows,)](
                logits, *tiles[:2], *result[2:], *sizes, num_top, **options
            )
    return result


def _weighed(
    source: tuple[Tensor, Tensor | None, Tensor | None],
    params: SampleParams,
    tiles: Tiles,
    options: dict[str, Any],
) -> tuple[Tensor, ...]:
    """What the draw needs: temperature, seeds, positions, cuts, and the weights of the tiles."""
    num_rows, vocab_size = source[0].shape
    num_tiles, device = tiles.best.shape[1], source[0].device
    p = params
    if p.filtered:
        cut = threshold(*source, tiles.best, (p.temperature, p.top_k, p.top_p, p.min_p))
    else:
        cut = (
            torch.full((num_rows,), 0x7F7FFFFF, dtype=torch.int32, device=device),
            torch.full((num_rows,), vocab_size, dtype=torch.int32, device=device),
        )
    weights = torch.empty(num_rows, num_tiles, dtype=torch.float64, device=device)
    equals = torch.empty(num_rows, num_tiles, dtype=torch.int32, device=device)
    weigh_kernel[num_tiles, num_rows](
        *source,
        tiles.best,
        p.temperature,
        cut[0],
        weights,
        equals,
        vocab_size,
        num_tiles,
        TILE,
        **options,
    )
    return p.temperature, p.seeds, p.positions, *cut, weights, equals


def _empty_result(num_rows: int, num_top: int, device: torch.device) -> SampleResult:
    tokens = torch.empty(num_rows, dtype=torch.int32, device=device)
    logprobs = torch.empty(num_rows, device=device)
    if not num_top:
        return SampleResult(tokens, logprobs, None, None)
    top_ids = torch.empty(num_rows, num_top, dtype=torch.int32, device=device)
    return SampleResult(tokens, logprobs, top_ids, torch.empty(num_rows, num_top, device=device))


def _check(logits: Tensor, params: SampleParams, num_top: int) -> tuple[int, int]:
    num_rows, vocab_size = check_matrix("logits", logits)
    if num_rows > MAX_ROWS or vocab_size > MAX_VOCAB:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}; at most {MAX_ROWS} rows of {MAX_VOCAB}"
        )
    for name in ("temperature", "top_k", "top_p", "min_p", "seeds", "positions"):
        dtype = _DTYPES.get(name, torch.float64)
        check_array(name, getattr(params, name), logits, dtype, (num_rows,))
    if not 0 <= num_top <= vocab_size:
        raise ValueError(f"{num_top=}; give 0 to the {vocab_size} tokens of the vocabulary")
    return num_rows, vocab_size
