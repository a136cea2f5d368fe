"""The metadata of a GGUF file in the words of a Hugging Face config.

An architecture is an entry in the table below: what Hugging Face calls it, the words that only it
has, and whether its q and k rows have to be put in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from gguf import MODEL_ARCH, GGMLQuantizationType
from numpy.typing import NDArray

from pdrt.errors import ModelError
from pdrt.model.gguf_file import GGUFFile, token_id

Words = dict[str, object]

# Rotary scaling of Llama 3.1 to 3.3. Files keep the result (rope_freqs), not these numbers.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

# Keys that change what is computed and that no architecture below has, with the values that change
# nothing.
NEUTRAL: dict[str, tuple[float, ...]] = {
    "attention.scale": (0.0,),
    "attention.output_scale": (0.0, 1.0),
    "attention.temperature_scale": (0.0, 1.0),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "rope.scaling.alpha": (0.0, 1.0),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "rope.scaling.yarn_attn_factor": (0.0, 1.0),
    "rope.scaling.yarn_ext_factor": (-1.0, 1.0),
    "rope.scaling.yarn_beta_fast": (32.0,),
    "rope.scaling.yarn_beta_slow": (1.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One that is read.

    Attributes:
        pairs: q and k rows stand in the order of another rotary convention: pairs beside each other
            instead of half a head apart.
    """

    names: tuple[str, str]  # architectures[0] and model_type
    arch: MODEL_ARCH
    words: Callable[[GGUFFile], Words]
    pairs: bool = False


def architecture(file: GGUFFile) -> Architecture:
    """Raises ModelError where it is not in the table."""
    if file.architecture not in ARCHITECTURES:
        raise ModelError(
            f"{file.path} has the architecture {file.architecture!r}; of GGUF files only "
            f"{', '.join(ARCHITECTURES)} are read; use the model's folder with safetensors"
        )
    return ARCHITECTURES[file.architecture]


def config(file: GGUFFile) -> Words:
    """config.json. Raises ModelError where the file asks for something that is not carried."""
    kind = architecture(file)
    num_heads, context = file.number("attention.head_count"), file.number("context_length")
    if file.number("attention.sliding_window", context) < context:
        raise file.error("attention.sliding_window", "windows of GGUF files are not read")
    for key, neutral in NEUTRAL.items():
        if file.real(key, neutral[-1]) not in neutral:
            raise file.error(key, "scales and caps of this kind are not read")
    return {
        "architectures": [kind.names[0]],
        "model_type": kind.names[1],
        "vocab_size": file.shape("token_embd.weight")[0],
        "hidden_size": file.number("embedding_length"),
        "intermediate_size": file.number("feed_forward_length"),
        "num_hidden_layers": file.number("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": file.number("attention.head_count_kv", num_heads),
        "max_position_embeddings": context,
        "rope_theta": file.real("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(file),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": _compute_dtype(file),
        **kind.words(file),
        **_special_ids(file),
    }


def generation_config(file: GGUFFile) -> Words:
    """End-of-sequence ids: the file may name an end of turn beside the end of text."""
    ids = _special_ids(file)
    ends = [ids["eos_token_id"], _token_id(file, "eot_token_id")]
    return {**ids, "eos_token_id": sorted({end for end in ends if isinstance(end, int)})}


def _plain(file: GGUFFile) -> Words:
    head_dim, rotated = _head_dims(file)
    if rotated != head_dim:
        raise ModelError(f"{file.path} rotates {rotated} of {head_dim} dimensions: not supported")
    return {
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": file.real("attention.layer_norm_rms_epsilon"),
    }


def _llama(file: GGUFFile) -> Words:
    return _plain(file) | {
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }


def _phi2(file: GGUFFile) -> Words:
    head_dim, rotated = _head_dims(file)
    return {
        "hidden_act": "gelu_new",
        "layer_norm_eps": file.real("attention.layer_norm_epsilon"),
        "partial_rotary_factor": rotated / head_dim,
        "qk_layernorm": False,
    }


def _head_dims(file: GGUFFile) -> tuple[int, int]:
    """Dimensions of a head, and how many of them are rotated."""
    share = file.number("embedding_length") // file.number("attention.head_count")
    head_dim = file.number("attention.key_length", share)
    return head_dim, file.number("rope.dimension_count", head_dim)


ARCHITECTURES = {
    "llama": Architecture(("LlamaForCausalLM", "llama"), MODEL_ARCH.LLAMA, _llama, pairs=True),
    "qwen2": Architecture(("Qwen2ForCausalLM", "qwen2"), MODEL_ARCH.QWEN2, _plain),
    "qwen3": Architecture(("Qwen3ForCausalLM", "qwen3"), MODEL_ARCH.QWEN3, _plain),
    "phi2": Architecture(("PhiForCausalLM", "phi"), MODEL_ARCH.PHI2, _phi2),
}


def _rope_scaling(file: GGUFFile) -> Words | None:
    """rope_scaling of config.json; None where positions are not scaled."""
    factor = file.real("rope.scaling.factor", file.real("rope.scale_linear", 1.0))
    kind = file.word("rope.scaling.type", "linear")
    if "rope_freqs.weight" in file.tensors:
        return _llama3(file)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise file.error("rope.scaling.type", "only linear, yarn and llama3's scaling are read")
    known = file.number("rope.scaling.original_context_length")
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": known}


def _llama3(file: GGUFFile) -> Words | None:
    """The factor, from divisors of frequencies that are those of llama3's formula and no others."""
    divisors = file.float32("rope_freqs.weight")
    theta, factor = file.real("rope.freq_base", 10000.0), float(divisors.max())
    if (divisors == 1.0).all():
        return None
    expected = llama3_divisors(2 * len(divisors), theta, factor)
    if not np.allclose(divisors, expected, rtol=1e-4):
        raise ModelError(
            f"{file.path} divides its rotary frequencies (rope_freqs) in another way than Llama "
            "3.1; use the model's folder with safetensors"
        )
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}


def llama3_divisors(dim: int, theta: float, factor: float) -> NDArray[np.float64]:
    """[dim / 2] what each frequency theta^(-2i / dim) is divided by.

    Source: the reference code of Llama 3.1 (models/llama3: apply_scaling). High frequencies stay,
    low ones are divided by `factor`, and between them the frequency is interpolated linearly in
    original_length / wavelength.
    """
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    wavelengths = 2 * np.pi * theta ** (np.arange(0, dim, 2) / dim)
    turns = LLAMA3["original_max_position_embeddings"] / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth))


def _compute_dtype(file: GGUFFile) -> str:
    """What the model is best computed in: quantised weights hold no more digits than bfloat16."""
    embedding = file.tensors["token_embd.weight"]
    return "float32" if embedding.tensor_type == GGMLQuantizationType.F32 else "bfloat16"


def _special_ids(file: GGUFFile) -> Words:
    return {
        "bos_token_id": _token_id(file, "bos_token_id"),
        "eos_token_id": _token_id(file, "eos_token_id"),
        "pad_token_id": _token_id(file, "padding_token_id"),
    }


def _token_id(file: GGUFFile, name: str) -> int | None:
    return token_id(file.get, name, file.shape("token_embd.weight")[0])
