"""Llama: RMSNorm, rotary embedding over the whole head, gated SiLU, grouped KV heads."""

from __future__ import annotations

from pdrt.model.families import plain
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec

ARCHITECTURES = ("LlamaForCausalLM", "llama")

TENSORS = plain.TENSORS


def spec(config: HFConfig) -> ModelSpec:
    return plain.spec(config, "llama")
