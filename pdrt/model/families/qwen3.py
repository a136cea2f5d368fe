"""Qwen 3 (dense): llama with a norm on each q and k head, and heads wider than their share."""

from __future__ import annotations

from dataclasses import replace

from pdrt.model.families import plain
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec

ARCHITECTURES = ("Qwen3ForCausalLM", "qwen3")

TENSORS = plain.TENSORS | {
    "layers.N.q_norm": ("model.layers.N.self_attn.q_norm",),
    "layers.N.k_norm": ("model.layers.N.self_attn.k_norm",),
}


def spec(config: HFConfig) -> ModelSpec:
    config = config.defaults(head_dim=128)
    enabled = config.flag("use_sliding_window", False)
    return replace(
        plain.spec(config, "qwen3"),
        qk_norm=True,
        windows=plain.windows(config, enabled, first=config.natural("max_window_layers", 28)),
    )
