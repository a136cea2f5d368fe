"""Gemma, first generation: the embedding is scaled by sqrt(hidden_size), norms multiply by
1 + weight, the MLP is gated by gelu, the head is the embedding."""

from __future__ import annotations

from dataclasses import replace

from pdrt.model.families import plain
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import Activation, ModelSpec

ARCHITECTURES = ("GemmaForCausalLM", "gemma")

TENSORS = plain.TENSORS

# The released configs say "gelu" and mean its tanh form.
ACTIVATIONS: dict[str, Activation] = {
    "gelu_pytorch_tanh": "gelu_tanh_gated",
    "gelu": "gelu_tanh_gated",
}


def spec(config: HFConfig) -> ModelSpec:
    config.require("use_bidirectional_attention", (False,), False)
    config = config.defaults(head_dim=256, tie_word_embeddings=True)
    common = plain.spec(config, "gemma", activations=ACTIVATIONS)
    return replace(common, norm_weight_offset=1.0, embedding_scale=common.hidden_size**0.5)
