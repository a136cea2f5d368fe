"""Converts a GGUF file to a folder in Hugging Face layout, with float32 weights.

Everything comes from the file: its metadata becomes config.json, generation_config.json and the
tokenizer, its tensors are dequantised one at a time. llama's q and k rows are stored in the order
of another rotary convention (pairs beside each other instead of half a head apart); it is undone.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from pdrt.errors import ModelError
from pdrt.model.cache import tell
from pdrt.model.gguf_tokenizer import write_tokenizer
from pdrt.model.safetensors_file import write_float32

CONVERSION = 2  # in the names of cached folders: another way of converting has another number

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


class GGUFFile:
    """An open GGUF file of the llama architecture.

    Raises:
        ModelError: the file is not GGUF, is truncated, or holds something that is not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _open(path)
        self.tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        architecture = self.need("general.architecture")
        if architecture != "llama":
            raise ModelError(
                f"{path} has the architecture {architecture!r}; of GGUF files only llama is read; "
                "use the model's folder with safetensors"
            )
        if "token_embd.weight" not in self.tensors:
            raise ModelError(
                f"{path} has no token_embd.weight; files in several parts are not read"
            )

    def get(self, key: str, default: object = None) -> object:
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def need(self, key: str) -> object:
        value = self.get(key)
        if value is None:
            raise ModelError(f"{self.path} has no metadata key {key}")
        return value

    def number(self, key: str, default: int | None = None) -> int:
        value = self.need(f"llama.{key}") if default is None else self.get(f"llama.{key}", default)
        if not isinstance(value, int):
            raise ModelError(f"{self.path}: llama.{key} is {value!r}, not an integer")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A float32, as the decimal number that was meant: 1e-05, not 9.999999747378752e-06."""
        value = self.need(f"llama.{key}") if default is None else self.get(f"llama.{key}", default)
        if not isinstance(value, int | float):
            raise ModelError(f"{self.path}: llama.{key} is {value!r}, not a number")
        return float(str(np.float32(value)))

    def float32(self, name: str) -> NDArray[np.float32]:
        """One tensor, dequantised, as [rows, columns] or [columns]."""
        tensor = self.tensors[name]
        try:
            return np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError:
            raise ModelError(
                f"{self.path}: tensor {name} has the type {tensor.tensor_type.name}, which cannot "
                "be dequantised here; use another quantisation of the model"
            ) from None


def convert(path: Path, folder: Path) -> None:
    """Writes the checkpoint of the GGUF file `path` into the existing `folder`.

    Raises:
        ModelError: the file cannot be used, or the disk has no room for its float32 weights.
    """
    file = GGUFFile(path)
    hf_config = config(file)
    names = {hf_name(name, path): name for name in file.tensors}
    shapes = {hf: tuple(reversed(file.tensors[name].shape.tolist())) for hf, name in names.items()}
    num_bytes = sum(4 * math.prod(shape) for shape in shapes.values())
    _require_room(folder, num_bytes)
    tell(f"converting {path.name} to float32, {num_bytes / 1e6:.0f} MB (once)")
    _write_json(folder / "config.json", hf_config)
    _write_json(folder / "generation_config.json", generation_config(file))
    write_tokenizer(file.get, folder)
    write_float32(folder / "model.safetensors", shapes, lambda hf: _in_hf_order(file, names[hf]))


def _require_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise ModelError(
            f"{folder} has {free / 1e6:.0f} MB free and the float32 weights need "
            f"{num_bytes / 1e6:.0f} MB; make room, or set XDG_CACHE_HOME to another disk"
        )


def config(file: GGUFFile) -> dict[str, object]:
    """The metadata in the words of Hugging Face's LlamaConfig."""
    num_heads = file.number("attention.head_count")
    hidden_size = file.number("embedding_length")
    head_dim = file.number("attention.key_length", hidden_size // num_heads)
    _refuse_other_rotations(file, head_dim)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(file.tensors["token_embd.weight"].shape[1]),
        "hidden_size": hidden_size,
        "intermediate_size": file.number("feed_forward_length"),
        "num_hidden_layers": file.number("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": file.number("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": file.real("attention.layer_norm_rms_epsilon"),
        "rope_theta": file.real("rope.freq_base", 10000.0),
        "rope_scaling": None,
        "max_position_embeddings": file.number("context_length"),
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": _compute_dtype(file),
        **_special_ids(file),
    }


def _compute_dtype(file: GGUFFile) -> str:
    """What the model is best computed in: quantised weights hold no more digits than bfloat16."""
    embedding = file.tensors["token_embd.weight"]
    is_float32 = embedding.tensor_type == gguf.GGMLQuantizationType.F32
    return "float32" if is_float32 else "bfloat16"


def _refuse_other_rotations(file: GGUFFile, head_dim: int) -> None:
    """Raises ModelError unless the whole head is rotated, without scaling."""
    rotated = file.number("rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise ModelError(f"{file.path} rotates {rotated} of {head_dim} dimensions: not supported")
    if "rope_freqs.weight" in file.tensors:
        raise ModelError(f"{file.path} scales its rotary embedding (rope_freqs): not supported")
    for key in ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear"):
        value = file.get(f"llama.{key}", "none")
        if value not in ("none", 1.0):
            raise ModelError(f"{file.path}: llama.{key} is {value!r}; scaling is not supported")


def generation_config(file: GGUFFile) -> dict[str, object]:
    """End-of-sequence ids: the file may name an end of turn beside the end of text."""
    ids = _special_ids(file)
    ends = [ids["eos_token_id"], file.get("tokenizer.ggml.eot_token_id")]
    return {**ids, "eos_token_id": sorted({end for end in ends if isinstance(end, int)})}


def hf_name(name: str, path: Path) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in LAYER_TENSORS:
        return f"model.layers.{parts[1]}.{LAYER_TENSORS[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in OTHER_TENSORS:
        return f"{OTHER_TENSORS[parts[0]]}.{parts[1]}"
    raise ModelError(f"{path} has the tensor {name}, which no llama model that we know has")


def _in_hf_order(file: GGUFFile, name: str) -> NDArray[np.float32]:
    tensor = file.float32(name)
    num_heads = file.number("attention.head_count")
    if ".attn_q." in name:
        return half_split_rows(tensor, num_heads)
    if ".attn_k." in name:
        return half_split_rows(tensor, file.number("attention.head_count_kv", num_heads))
    return tensor


def half_split_rows(tensor: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of each head from (x0, y0, x1, y1, ...) to (x0, x1, ..., y0, y1, ...).

    Args:
        tensor: a weight [num_heads * head_dim, hidden_size] or a bias [num_heads * head_dim].
    """
    pairs = tensor.reshape(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def _special_ids(file: GGUFFile) -> dict[str, object]:
    return {
        "bos_token_id": file.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": file.get("tokenizer.ggml.padding_token_id"),
    }


def _open(path: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ModelError(
            f"{path} is not a GGUF file or is truncated ({error}); fetch it again"
        ) from None


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
