"""Phi (1, 1.5 and 2): one LayerNorm feeds attention and MLP side by side, part of each head is
rotated, and every linear has a bias, the head too."""

from __future__ import annotations

from dataclasses import replace

from pdrt.model.families import plain
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import Activation, ModelSpec

ARCHITECTURES = ("PhiForCausalLM", "phi")

TENSORS = {
    "embedding": ("model.embed_tokens",),
    "layers.N.attention_norm": ("model.layers.N.input_layernorm",),
    "layers.N.qkv": (
        "model.layers.N.self_attn.q_proj",
        "model.layers.N.self_attn.k_proj",
        "model.layers.N.self_attn.v_proj",
    ),
    "layers.N.attention_out": ("model.layers.N.self_attn.dense",),
    "layers.N.up": ("model.layers.N.mlp.fc1",),
    "layers.N.down": ("model.layers.N.mlp.fc2",),
    "final_norm": ("model.final_layernorm",),
    "head": ("lm_head",),
}

ACTIVATIONS: dict[str, Activation] = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def spec(config: HFConfig) -> ModelSpec:
    config.require("qk_layernorm", (False,), False)
    config = config.defaults(partial_rotary_factor=0.5)
    return replace(
        plain.spec(config, "phi", norm="layer", activations=ACTIVATIONS),
        parallel=True,
        shared_norm=True,
        qkv_bias=True,
        attention_out_bias=True,
        mlp_bias=True,
        head_bias=True,
    )
