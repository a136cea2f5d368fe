"""What one decoder is: its sizes and variants, and the tensors that follow from them.

A spec is all that the decoder, the weights and the KV pool know of a model; the families
(pdrt.model.families) make it from a checkpoint's config. Touches no tensors.

Our tensors, with q, k, v in one and gate, up in one, because one large product is faster than
three small ones:

    embedding.weight
    layers.N.attention_norm                 parallel layers (phi) have this norm only
    layers.N.qkv  layers.N.attention_out
    layers.N.mlp_norm
    layers.N.gate_up (gated) or layers.N.up  layers.N.down
    final_norm  head                        no head.weight where it is the embedding (tied)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pdrt.errors import ModelError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One decoder.

    Attributes:
        rotary_dim: the first dimensions of a head that are rotated; even.
        norm: rms (weight only) or layer (mean subtracted, weight and bias).
        activation: silu_gated: down(silu(gate) * up); gelu_tanh: down(gelu(up)).
        parallel: attention and MLP both read the one norm and are added to the residual together.
        eos_token_ids: tokens that end a request.
        dtype: of the checkpoint, in torch's words: float32, bfloat16 or float16.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    max_position_embeddings: int
    norm: Literal["rms", "layer"]
    norm_eps: float
    activation: Literal["silu_gated", "gelu_tanh"]
    parallel: bool
    attention_bias: bool
    mlp_bias: bool
    head_bias: bool
    tied_embeddings: bool
    eos_token_ids: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ModelError(
                f"{self.num_heads} query heads cannot share {self.num_kv_heads} KV heads evenly"
            )
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise ModelError(
                f"rotary dimension {self.rotary_dim} must be even and at most {self.head_dim}"
            )

    @property
    def qkv_size(self) -> int:
        """Width of the fused q | k | v projection."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


def tensors(spec: ModelSpec) -> dict[str, Shape]:
    """Name -> shape of all tensors of the decoder, in the order in which they are stored."""
    shapes: dict[str, Shape] = {"embedding.weight": (spec.vocab_size, spec.hidden_size)}
    for layer in range(spec.num_layers):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in _layer(spec).items()}
    shapes |= _norm(spec, "final_norm")
    if not spec.tied_embeddings:
        shapes["head.weight"] = (spec.vocab_size, spec.hidden_size)
    if spec.head_bias:
        shapes["head.bias"] = (spec.vocab_size,)
    return shapes


def _layer(spec: ModelSpec) -> dict[str, Shape]:
    gated = spec.activation == "silu_gated"
    hidden, inner, heads = spec.hidden_size, spec.intermediate_size, spec.num_heads * spec.head_dim
    shapes = _norm(spec, "attention_norm")
    shapes |= _linear("qkv", spec.qkv_size, hidden, spec.attention_bias)
    shapes |= _linear("attention_out", hidden, heads, spec.attention_bias)
    if not spec.parallel:
        shapes |= _norm(spec, "mlp_norm")
    if gated:
        shapes |= _linear("gate_up", 2 * inner, hidden, spec.mlp_bias)
    else:
        shapes |= _linear("up", inner, hidden, spec.mlp_bias)
    return shapes | _linear("down", hidden, inner, spec.mlp_bias)


def _linear(name: str, num_outputs: int, num_inputs: int, bias: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.weight": (num_outputs, num_inputs)}
    return shapes | {f"{name}.bias": (num_outputs,)} if bias else shapes


def _norm(spec: ModelSpec, name: str) -> dict[str, Shape]:
    parts = ("weight", "bias") if spec.norm == "layer" else ("weight",)
    return {f"{name}.{part}": (spec.hidden_size,) for part in parts}
