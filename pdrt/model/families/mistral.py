"""Mistral: llama with a sliding window, in the versions that have one."""

from __future__ import annotations

from dataclasses import replace

from pdrt.model.families import plain
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec

ARCHITECTURES = ("MistralForCausalLM", "mistral")

TENSORS = plain.TENSORS


def spec(config: HFConfig) -> ModelSpec:
    common = plain.without_biases(plain.spec(config, "mistral"))
    window = plain.window(config, plain.ABSENT_WINDOW)
    return replace(common, windows=(window,) * common.num_layers)
