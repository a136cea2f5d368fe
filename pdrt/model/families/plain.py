"""The plain decoder, which is llama's: the names and config keys that most families share.

A family takes `plain.spec(config, name)` and replaces what it does otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pdrt.model.hf_config import HFConfig
from pdrt.model.rope import rope_of
from pdrt.model.spec import Activation, ModelSpec

TENSORS: dict[str, tuple[str, ...]] = {
    "embedding": ("model.embed_tokens",),
    "layers.N.attention_norm": ("model.layers.N.input_layernorm",),
    "layers.N.qkv": (
        "model.layers.N.self_attn.q_proj",
        "model.layers.N.self_attn.k_proj",
        "model.layers.N.self_attn.v_proj",
    ),
    "layers.N.attention_out": ("model.layers.N.self_attn.o_proj",),
    "layers.N.mlp_norm": ("model.layers.N.post_attention_layernorm",),
    "layers.N.gate_up": ("model.layers.N.mlp.gate_proj", "model.layers.N.mlp.up_proj"),
    "layers.N.down": ("model.layers.N.mlp.down_proj",),
    "final_norm": ("model.norm",),
    "head": ("lm_head",),
}

SILU: dict[str, Activation] = {"silu": "silu_gated"}


def spec(
    config: HFConfig,
    family: str,
    norm: Literal["rms", "layer"] = "rms",
    activations: Mapping[str, Activation] = SILU,
) -> ModelSpec:
    """The spec that the common keys of a config describe.

    Args:
        activations: values of hidden_act that the family knows; the first is the default.

    Raises:
        ModelError: a key is missing, or has a value that the decoder does not carry.
    """
    num_layers = config.integer("num_hidden_layers")
    num_heads = config.integer("num_attention_heads")
    hidden_size = config.integer("hidden_size")
    head_dim = config.integer("head_dim", max(1, hidden_size // num_heads))
    attention_bias = config.flag("attention_bias", False)
    return ModelSpec(
        family=family,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=config.integer("num_key_value_heads", num_heads),
        head_dim=head_dim,
        rope=rope_of(config, head_dim),
        norm=norm,
        norm_eps=config.number(f"{norm}_norm_eps"),
        activation=config.choice("hidden_act", activations),
        windows=(0,) * num_layers,
        qkv_bias=attention_bias,
        attention_out_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias", False),
        tied_embeddings=config.flag("tie_word_embeddings", False),
        eos_token_ids=config.token_ids("eos_token_id"),
        dtype=config.dtype(),
    )


ABSENT_WINDOW = 4096  # of Mistral and Qwen in transformers, where the key is not there


def without_biases(spec: ModelSpec) -> ModelSpec:
    """For families that never have any, whatever a config's attention_bias and mlp_bias say."""
    return replace(spec, qkv_bias=False, attention_out_bias=False, mlp_bias=False)


def window(config: HFConfig, absent: int = 0) -> int:
    """sliding_window, 0 for none.

    Args:
        absent: what it is where the config does not have the key; null means none.
    """
    if not config.has("sliding_window"):
        return absent
    return 0 if config.get("sliding_window") is None else config.integer("sliding_window")


def windows(config: HFConfig, window: int, first: int) -> tuple[int, ...]:
    """The window of each layer, 0 where it sees all, by layer_types.

    Args:
        first: the first layer with a window, where layer_types does not say which have one.

    Raises:
        ModelError: layer_types does not name attention with or without a window for each layer.
    """
    num_layers = config.integer("num_hidden_layers")
    kinds = config.get("layer_types")
    if kinds is None:
        return tuple(window if layer >= first else 0 for layer in range(num_layers))
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise config.error("layer_types", f"a list of {num_layers}, one for each layer")
    known = ("full_attention", "sliding_attention")
    if not all(kind in known for kind in kinds):
        raise config.error("layer_types", f"a list of {' or '.join(known)}")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
