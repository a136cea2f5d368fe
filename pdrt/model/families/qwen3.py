"""Qwen 3 (dense): llama with a norm on each q and k head, and heads wider than their share."""

from __future__ import annotations

from dataclasses import replace

from pdrt.model.families import plain, qwen2
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec

ARCHITECTURES = ("Qwen3ForCausalLM", "qwen3")

TENSORS = plain.TENSORS | {
    "layers.N.q_norm": ("model.layers.N.self_attn.q_norm",),
    "layers.N.k_norm": ("model.layers.N.self_attn.k_norm",),
}


def spec(config: HFConfig) -> ModelSpec:
    common = plain.spec(config.defaults(head_dim=128), "qwen3")
    return replace(common, qk_norm=True, mlp_bias=False, windows=qwen2.windows(config))
