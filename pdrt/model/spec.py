"""What one decoder is: its sizes and variants, and the tensors that follow from them.

A spec is all that the decoder, the weights and the KV pool know of a model; the families
(pdrt.model.families) make it from a checkpoint's config. Touches no tensors.

Our tensors, with q, k, v in one and gate, up in one, because one large product is faster than
three small ones:

    embedding.weight
    layers.N.attention_norm
    layers.N.qkv  layers.N.q_norm  layers.N.k_norm (qk_norm)  layers.N.attention_out
    layers.N.mlp_norm                       not where attention and MLP share a norm (phi)
    layers.N.gate_up (gated) or layers.N.up  layers.N.down
    final_norm  head                        no head.weight where it is the embedding (tied)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pdrt.errors import ModelError
from pdrt.model.rope import Rope

Shape = tuple[int, ...]

Activation = Literal["silu_gated", "gelu_tanh_gated", "gelu_tanh", "gelu"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One decoder. The fields with a default are the variants; the defaults are llama's.

    Attributes:
        norm_eps: of all norms.
        windows: of each layer: a token sees itself and the window - 1 before it; 0: all before.
        eos_token_ids: tokens that end a request.
        dtype: of the checkpoint, in torch's words: float32, bfloat16 or float16.
        norm: rms (weight only) or layer (mean subtracted, weight and bias).
        norm_weight_offset: added to the weight of each rms norm.
        qk_norm: each q and k head has an rms norm before it is rotated.
        activation: gated: down(f(gate) * up), else down(f(up)).
        parallel: attention and MLP both read the residual as it was before the layer, and are
            added to it together; else the MLP reads what the attention has added to.
        shared_norm: parallel, with one norm for attention and MLP.
        embedding_scale: multiplies the embedding, rounded to the dtype of the weights.
        qkv_by_head: the checkpoint has the rows of q, k and v of one head together, then those of
            the next head; they are put in order when they are loaded. Not with shared KV heads.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rope
    norm_eps: float
    windows: tuple[int, ...]
    eos_token_ids: tuple[int, ...]
    dtype: str
    norm: Literal["rms", "layer"] = "rms"
    norm_weight_offset: float = 0.0
    qk_norm: bool = False
    activation: Activation = "silu_gated"
    parallel: bool = False
    shared_norm: bool = False
    embedding_scale: float = 1.0
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    tied_embeddings: bool = False
    qkv_by_head: bool = False

    def __post_init__(self) -> None:
        assert len(self.windows) == self.num_layers, (self.windows, self.num_layers)
        assert self.parallel or not self.shared_norm
        if self.num_heads % self.num_kv_heads:
            raise ModelError(
                f"{self.num_heads} query heads cannot share {self.num_kv_heads} KV heads evenly"
            )
        if self.rope.dim > self.head_dim:
            raise ModelError(
                f"rotary dimension {self.rope.dim} is more than the head's {self.head_dim}"
            )

    @property
    def qkv_size(self) -> int:
        """Width of the fused q | k | v projection."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def is_gated(self) -> bool:
        """Whether the MLP has a gate beside its up projection."""
        return self.activation.endswith("_gated")

    @property
    def max_position_embeddings(self) -> int:
        """Tokens that the model knows positions for."""
        return self.rope.max_length


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
    hidden, inner, heads = spec.hidden_size, spec.intermediate_size, spec.num_heads * spec.head_dim
    shapes = _norm(spec, "attention_norm")
    shapes |= _linear("qkv", spec.qkv_size, hidden, spec.qkv_bias)
    if spec.qk_norm:
        shapes |= {"q_norm.weight": (spec.head_dim,), "k_norm.weight": (spec.head_dim,)}
    shapes |= _linear("attention_out", hidden, heads, spec.attention_out_bias)
    if not spec.shared_norm:
        shapes |= _norm(spec, "mlp_norm")
    if spec.is_gated:
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
