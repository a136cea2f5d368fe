"""Phi (1, 1.5 and 2): one LayerNorm feeds attention and MLP side by side, part of each head is
rotated, and every linear has a bias, the head too."""

from __future__ import annotations

from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec

ARCHITECTURES = ("PhiForCausalLM", "phi")

LAYER = {
    "attention_norm": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_out": ("self_attn.dense",),
    "up": ("mlp.fc1",),
    "down": ("mlp.fc2",),
}
OTHER = {
    "embedding": ("model.embed_tokens",),
    "final_norm": ("model.final_layernorm",),
    "head": ("lm_head",),
}


def spec(config: HFConfig) -> ModelSpec:
    config.require("hidden_act", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    config.require("qk_layernorm", (False,), False)
    num_heads = config.integer("num_attention_heads")
    hidden_size = config.integer("hidden_size")
    head_dim = config.integer("head_dim", hidden_size // num_heads)
    rope = config.rope()
    return ModelSpec(
        family="phi",
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=config.integer("num_key_value_heads", num_heads),
        head_dim=head_dim,
        rotary_dim=int(head_dim * rope.number("partial_rotary_factor", 0.5)),
        rope_theta=rope.number("rope_theta", 10000.0),
        max_position_embeddings=config.integer("max_position_embeddings"),
        norm="layer",
        norm_eps=config.number("layer_norm_eps"),
        activation="gelu_tanh",
        parallel=True,
        attention_bias=True,
        mlp_bias=True,
        head_bias=True,
        tied_embeddings=config.flag("tie_word_embeddings", False),
        eos_token_ids=config.token_ids("eos_token_id"),
        dtype=config.dtype(),
    )
