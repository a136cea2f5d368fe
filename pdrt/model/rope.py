"""What a config says of the rotary embedding: a base, the rotated dimensions, a kind of scaling.

Values only; pdrt.model.rotary makes the table of them, and docs/models.md explains the kinds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pdrt.errors import ModelError
from pdrt.model.hf_config import HFConfig


@dataclass(frozen=True, slots=True)
class Linear:
    """Positions are divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The base grows with the server's length, once that is over `original_length` tokens."""

    factor: float
    original_length: int


@dataclass(frozen=True, slots=True)
class Yarn:
    """Slow pairs are divided by `factor`, fast ones stay, those between are blended.

    Attributes:
        beta_fast, beta_slow: turns in `original_length` tokens from which on a pair is fast, and
            up to which it is slow.
        truncate: whether the pairs at these two limits are rounded outwards to whole ones.
        attention_factor: multiplies cosines and sines.
    """

    factor: float
    original_length: int
    beta_fast: float
    beta_slow: float
    truncate: bool
    attention_factor: float


@dataclass(frozen=True, slots=True)
class Llama3:
    """As Yarn, with the limits given as wavelengths: `original_length` divided by each factor."""

    factor: float
    original_length: int
    low_freq_factor: float
    high_freq_factor: float


@dataclass(frozen=True, slots=True)
class LongRope:
    """A divisor for each pair, from one of two lists: up to `original_length` tokens, and beyond.

    Attributes:
        attention_factor: multiplies cosines and sines, whichever list is used.
    """

    original_length: int
    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    attention_factor: float


RopeScaling = Linear | Dynamic | Yarn | Llama3 | LongRope


@dataclass(frozen=True, slots=True)
class Rope:
    """A rotary embedding.

    Attributes:
        dim: the first dimensions of a head that are rotated; even.
        theta: the base; pair i turns by theta^(-2i / dim) a position, before scaling.
        max_length: tokens that the model knows positions for, scaling included.
    """

    dim: int
    theta: float
    scaling: RopeScaling | None
    max_length: int

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ModelError(f"rotary dimension {self.dim} must be even and positive")
        if isinstance(self.scaling, Dynamic) and self.dim < 4:
            raise ModelError(
                f"rotary dimension {self.dim} is too small for dynamic scaling; 4 works"
            )
        if not self.theta > 1:
            raise ModelError(f"rope_theta {self.theta} must be above 1")


def rope_of(config: HFConfig, head_dim: int) -> Rope:
    """The rotary embedding of a config, in the words of transformers 4 or 5.

    Raises:
        ModelError: the kind of scaling is not known, or its parameters make no sense.
    """
    values = config.rope()
    kind = values.get("rope_type")
    if kind in ("su", "yarn") and values.get("long_factor") is not None:
        kind = "longrope"  # its names in the first phi-3 checkpoints
    read = _KINDS.get(str(kind))
    if read is None:
        raise ModelError(
            f"{config.place}: rotary scaling {kind!r} is not supported; known are "
            f"{', '.join(_KINDS)}"
        )
    scaling = read(values)
    dim = int(head_dim * values.number("partial_rotary_factor", 1.0))
    if isinstance(scaling, LongRope):
        _check_factors(values, scaling, dim // 2)
    known = values.integer("max_position_embeddings")
    return Rope(dim, values.number("rope_theta", 10000.0), scaling, _max_length(known, scaling))


def _check_factors(config: HFConfig, scaling: LongRope, num_pairs: int) -> None:
    factors = {"short_factor": scaling.short_factors, "long_factor": scaling.long_factors}
    for key, values in factors.items():
        if len(values) != num_pairs:
            raise config.error(key, f"{num_pairs} factors, one for each rotated pair")


def _max_length(known: int, scaling: RopeScaling | None) -> int:
    """Tokens that the model can be asked for, given max_position_embeddings.

    Configs keep the original length there for linear and dynamic, and either length for yarn; for
    llama3 and longrope it is the length after scaling.
    """
    match scaling:
        case Linear(factor) | Dynamic(factor):
            return int(known * factor)
        case Yarn(factor, original_length):
            return int(original_length * factor)
        case _:
            return known


def _linear(config: HFConfig) -> Linear:
    return Linear(_factor(config))


def _dynamic(config: HFConfig) -> Dynamic:
    return Dynamic(_factor(config), config.integer("max_position_embeddings"))


def _yarn(config: HFConfig) -> Yarn:
    known = config.integer("max_position_embeddings")
    original = config.integer("original_max_position_embeddings", known)
    factor = _factor(config, known / original)
    return Yarn(
        factor,
        original,
        beta_fast=_positive(config, "beta_fast", 32.0),
        beta_slow=_positive(config, "beta_slow", 1.0),
        truncate=config.flag("truncate", True),
        attention_factor=config.number("attention_factor", _yarn_attention_factor(config, factor)),
    )


def _yarn_attention_factor(config: HFConfig, factor: float) -> float:
    """The paper's 0.1 ln(factor) + 1, or DeepSeek's quotient of two with weights of their own."""

    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0

    above, below = config.number("mscale", 0.0), config.number("mscale_all_dim", 0.0)
    return magnitude(above) / magnitude(below) if above and below else magnitude(1.0)


def _llama3(config: HFConfig) -> Llama3:
    low, high = _positive(config, "low_freq_factor"), _positive(config, "high_freq_factor")
    if low >= high:
        raise config.error("high_freq_factor", f"more than low_freq_factor {low}")
    return Llama3(_factor(config), config.integer("original_max_position_embeddings"), low, high)


def _longrope(config: HFConfig) -> LongRope:
    """Attention factor: sqrt(1 + ln(factor) / ln(original)), as phi-3's own code computes it."""
    original = config.integer("original_max_position_embeddings")
    if original < 2:
        raise config.error("original_max_position_embeddings", "2 or more")
    factor = config.number("factor", config.integer("max_position_embeddings") / original)
    magnitude = math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(original))
    return LongRope(
        original,
        _factors(config, "short_factor"),
        _factors(config, "long_factor"),
        config.number("attention_factor", magnitude),
    )


_KINDS: dict[str, Callable[[HFConfig], RopeScaling | None]] = {
    "default": lambda config: None,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}


def _factor(config: HFConfig, default: float | None = None) -> float:
    factor = config.number("factor", default)
    if factor < 1:
        raise config.error("factor", "a number from 1 on")
    return factor


def _positive(config: HFConfig, key: str, default: float | None = None) -> float:
    value = config.number(key, default)
    if value <= 0:
        raise config.error(key, "a positive number")
    return value


def _factors(config: HFConfig, key: str) -> tuple[float, ...]:
    value = config.get(key)
    if not isinstance(value, list) or not all(type(x) in (int, float) and x > 0 for x in value):
        raise config.error(key, "a list of positive numbers")
    return tuple(float(x) for x in value)
