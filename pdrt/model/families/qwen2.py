"""Qwen 2 and 2.5: llama with biases on q, k and v; upper layers may have a sliding window."""

from __future__ import annotations

from dataclasses import replace

from pdrt.model.families import plain
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec

ARCHITECTURES = ("Qwen2ForCausalLM", "qwen2")

TENSORS = plain.TENSORS


def spec(config: HFConfig) -> ModelSpec:
    enabled = config.flag("use_sliding_window", False)
    return replace(
        plain.spec(config, "qwen2"),
        qkv_bias=True,
        windows=plain.windows(config, enabled, first=config.natural("max_window_layers", 28)),
    )
