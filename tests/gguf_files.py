"""GGUF files for the tests: tiny checkpoints written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

Writer = gguf.GGUFWriter
Array = NDArray[np.float32]
Stored = tuple[NDArray[np.generic], Type | None]  # blocks and their type; None: as the array's own

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.final_layernorm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.fc1": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.fc2": "ffn_down",
}


def as_it_is(name: str, tensor: Array) -> Stored:
    """Every tensor in float32."""
    return tensor, None


def write_gguf(
    folder: Path,
    path: Path,
    change: Callable[[Writer], None] = lambda writer: None,
    architecture: str = "llama",
    stored: Callable[[str, Array], Stored | None] = as_it_is,
) -> Path:
    """The tiny checkpoint in `folder` as a GGUF file.

    Args:
        change: adds to what is written.
        stored: name in the checkpoint, tensor -> how the file has it; None: not at all.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = Writer(path, architecture)
    _write_sizes(config, writer)
    _write_tokenizer(folder, writer)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if architecture == "llama" and ".q_proj." in name:
            tensor = interleaved(tensor, config["num_attention_heads"])
        if architecture == "llama" and ".k_proj." in name:
            tensor = interleaved(tensor, config["num_key_value_heads"])
        if (how := stored(name, tensor)) is not None:
            writer.add_tensor(gguf_name(name), how[0], raw_dtype=how[1])
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name.replace("model.layers.", "blk.")


def interleaved(weight: Array, num_heads: int) -> Array:
    """llama.cpp's order of q and k rows: row i and row i + half of a head beside each other."""
    head_dim = len(weight) // num_heads
    order = [
        head * head_dim + i + half
        for head in range(num_heads)
        for i in range(head_dim // 2)
        for half in (0, head_dim // 2)
    ]
    return weight[order]


def _write_sizes(config: dict[str, object], writer: Writer) -> None:
    heads = config["num_attention_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    else:
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        share = config["rope_parameters"]["partial_rotary_factor"]
        writer.add_rope_dimension_count(int(share * config["hidden_size"] // heads))
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])


def _write_tokenizer(folder: Path, writer: Writer) -> None:
    vocab = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    kinds = [gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template("{{ messages[0]['content'] }}")
