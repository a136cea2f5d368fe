"""Phi 3, 3.5 and 4 (dense): llama whose checkpoint has q, k, v in one tensor and gate, up in one;
most have a sliding window, and the long versions longrope."""

from __future__ import annotations

from dataclasses import replace

from pdrt.model.families import plain
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec

ARCHITECTURES = ("Phi3ForCausalLM", "phi3")

TENSORS = plain.TENSORS | {
    "layers.N.qkv": ("model.layers.N.self_attn.qkv_proj",),
    "layers.N.gate_up": ("model.layers.N.mlp.gate_up_proj",),
}


def spec(config: HFConfig) -> ModelSpec:
    common = plain.without_biases(plain.spec(config, "phi3"))
    window = plain.window(config)
    return replace(common, windows=(window,) * common.num_layers)
