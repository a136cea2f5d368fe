"""The rotary table: cosines and sines of every position that a server can reach.

A rotation depends on the position alone, never on how long the request is: pages are shared between
requests, and a cached key cannot be turned again. The kinds that were meant to switch as a text
grows (dynamic, longrope) are therefore fixed when the server starts, by its max_model_len.

All in float32 and in the order of transformers, so that angles of late positions are its own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import assert_never

import torch
from torch import Tensor

from pdrt.model.rope import Dynamic, Linear, Llama3, LongRope, Rope, Yarn


def rotary_table(rope: Rope, max_model_len: int) -> Tensor:
    """[max_model_len, rope.dim] float32: cos of each pair's angle, then sin of it.

    Pair i of a head turns by position * rotary_frequencies(...)[i].
    """
    positions = torch.arange(max_model_len, dtype=torch.int64).float()
    angles = torch.outer(positions, rotary_frequencies(rope, max_model_len))
    return torch.cat([angles.cos(), angles.sin()], dim=-1) * attention_factor(rope)


def attention_factor(rope: Rope) -> float:
    """What cosines and sines are multiplied by, to sharpen the attention over long texts."""
    if isinstance(rope.scaling, Yarn | LongRope):
        return rope.scaling.attention_factor
    return 1.0


def rotary_frequencies(rope: Rope, max_model_len: int) -> Tensor:
    """[rope.dim / 2] float32: radians that each pair turns from one position to the next."""
    match rope.scaling:
        case None:
            return _unscaled(rope)
        case Linear(factor):  # position interpolation, Chen et al. 2023, arXiv:2306.15595
            return _unscaled(rope) / factor
        case Dynamic() as scaling:
            return _dynamic(rope, scaling, max_model_len)
        case Yarn() as scaling:
            return _yarn(rope, scaling)
        case Llama3() as scaling:
            return _llama3(rope, scaling)
        case LongRope() as scaling:
            return _longrope(rope, scaling, max_model_len)
        case _:
            assert_never(rope.scaling)


def _unscaled(rope: Rope) -> Tensor:
    """theta^(-2i / dim): Su et al. 2021, arXiv:2104.09864, section 3.2.2."""
    return 1.0 / _wavelengths(rope)


def _wavelengths(rope: Rope) -> Tensor:
    """Positions that each pair needs to turn by one radian."""
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    return rope.theta**exponents


def _dynamic(rope: Rope, scaling: Dynamic, max_model_len: int) -> Tensor:
    """NTK-aware scaling for a length: Peng et al. 2023, arXiv:2309.00071, 3.1 and 3.3.

    The base grows so that the slowest pair is stretched by
    1 + factor * (length / original_length - 1), and the fastest not at all.
    """
    length = max(max_model_len, scaling.original_length)
    stretch = (scaling.factor * length / scaling.original_length) - (scaling.factor - 1)
    return _unscaled(replace(rope, theta=rope.theta * stretch ** (rope.dim / (rope.dim - 2))))


def _yarn(rope: Rope, scaling: Yarn) -> Tensor:
    """Peng et al. 2023, arXiv:2309.00071, section 3.2 ("NTK-by-parts"), the ramp over pairs."""

    def pair_of(turns: float) -> float:
        """The pair, as a real number, that turns so often in the original length."""
        per_radian = scaling.original_length / (turns * 2 * math.pi)
        return rope.dim * math.log(per_radian) / (2 * math.log(rope.theta))

    first, last = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.dim - 1)
    if first == last:
        last += 0.001  # a step, without dividing by 0
    pairs = torch.arange(rope.dim // 2, dtype=torch.float32)
    kept = 1 - ((pairs - first) / (last - first)).clamp(0, 1)
    wavelengths = _wavelengths(rope)
    return 1.0 / (scaling.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept


def _llama3(rope: Rope, scaling: Llama3) -> Tensor:
    """Llama 3.1: `apply_scaling` in meta-llama/llama-models, models/llama3/model.py.

    Three cases there; one formula here, because the blend is clamped.
    """
    frequencies = _unscaled(rope)
    turns = scaling.original_length / (2 * math.pi / frequencies)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _longrope(rope: Rope, scaling: LongRope, max_model_len: int) -> Tensor:
    """Ding et al. 2024, arXiv:2402.13753, as phi-3 uses it: divisors found by search."""
    is_long = max_model_len > scaling.original_length
    factors = scaling.long_factors if is_long else scaling.short_factors
    return 1.0 / (torch.tensor(factors, dtype=torch.float32) * _wavelengths(rope))
