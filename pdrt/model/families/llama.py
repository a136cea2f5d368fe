"""Llama: RMSNorm, rotary embedding over the whole head, gated SiLU, grouped KV heads."""

from __future__ import annotations

from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec

ARCHITECTURES = ("LlamaForCausalLM", "llama")

LAYER = {
    "attention_norm": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_out": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
OTHER = {
    "embedding": ("model.embed_tokens",),
    "final_norm": ("model.norm",),
    "head": ("lm_head",),
}


def spec(config: HFConfig) -> ModelSpec:
    config.require("hidden_act", ("silu",), "silu")
    num_heads = config.integer("num_attention_heads")
    hidden_size = config.integer("hidden_size")
    head_dim = config.integer("head_dim", hidden_size // num_heads)
    return ModelSpec(
        family="llama",
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=config.integer("num_key_value_heads", num_heads),
        head_dim=head_dim,
        rotary_dim=head_dim,
        rope_theta=config.rope().number("rope_theta", 10000.0),
        max_position_embeddings=config.integer("max_position_embeddings"),
        norm="rms",
        norm_eps=config.number("rms_norm_eps"),
        activation="silu_gated",
        parallel=False,
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
        head_bias=False,
        tied_embeddings=config.flag("tie_word_embeddings", False),
        eos_token_ids=config.token_ids("eos_token_id"),
        dtype=config.dtype(),
    )
