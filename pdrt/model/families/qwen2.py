"""Qwen 2 and 2.5: llama with biases on q, k and v; upper layers may have a sliding window."""

from __future__ import annotations

from dataclasses import replace

from pdrt.model.families import plain
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec

ARCHITECTURES = ("Qwen2ForCausalLM", "qwen2")

TENSORS = plain.TENSORS


def spec(config: HFConfig) -> ModelSpec:
    common = plain.without_biases(plain.spec(config, "qwen2"))
    return replace(common, qkv_bias=True, windows=windows(config))


def windows(config: HFConfig) -> tuple[int, ...]:
    """Of each layer; Qwen 3 has them in the same words."""
    enabled = config.flag("use_sliding_window", False)
    window = plain.window(config, plain.ABSENT_WINDOW) if enabled else 0
    return plain.windows(config, window, first=config.natural("max_window_layers", 28))
