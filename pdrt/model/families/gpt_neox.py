"""GPT-NeoX and Pythia: LayerNorm, attention and MLP side by side with a norm each, part of each
head is rotated, and the checkpoint has q, k and v of each head together in one tensor."""

from __future__ import annotations

from dataclasses import replace

from pdrt.model.families import plain
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import Activation, ModelSpec

ARCHITECTURES = ("GPTNeoXForCausalLM", "gpt_neox")

TENSORS = {
    "embedding": ("gpt_neox.embed_in",),
    "layers.N.attention_norm": ("gpt_neox.layers.N.input_layernorm",),
    "layers.N.qkv": ("gpt_neox.layers.N.attention.query_key_value",),
    "layers.N.attention_out": ("gpt_neox.layers.N.attention.dense",),
    "layers.N.mlp_norm": ("gpt_neox.layers.N.post_attention_layernorm",),
    "layers.N.up": ("gpt_neox.layers.N.mlp.dense_h_to_4h",),
    "layers.N.down": ("gpt_neox.layers.N.mlp.dense_4h_to_h",),
    "final_norm": ("gpt_neox.final_layer_norm",),
    "head": ("embed_out",),
}

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def spec(config: HFConfig) -> ModelSpec:
    config = config.renamed(rotary_emb_base="rope_theta", rotary_pct="partial_rotary_factor")
    config = config.defaults(attention_bias=True, rope_theta=10000.0, partial_rotary_factor=0.25)
    return replace(
        plain.spec(config, "gpt_neox", norm="layer", activations=ACTIVATIONS),
        parallel=config.flag("use_parallel_residual", True),
        mlp_bias=True,
        qkv_by_head=True,
    )
