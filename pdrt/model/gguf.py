"""Converts a GGUF file to a folder in Hugging Face layout, with float32 weights.

Everything comes from the file: its metadata becomes config.json, generation_config.json and the
tokenizer, its tensors are dequantised one at a time. Which tensors there must be follows from the
model's spec; the gguf library knows what a file calls them.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from pdrt.errors import ModelError
from pdrt.model.cache import tell
from pdrt.model.checkpoint import tensor_parts
from pdrt.model.families import spec_of
from pdrt.model.gguf_config import Architecture, architecture, config, generation_config
from pdrt.model.gguf_file import GGUFFile
from pdrt.model.gguf_tokenizer import write_tokenizer
from pdrt.model.hf_config import HFConfig
from pdrt.model.safetensors_file import write_float32
from pdrt.model.spec import ModelSpec, Shape

CONVERSION = 3  # in the names of cached folders: another way of converting has another number

# Read elsewhere: the divisors of rotary frequencies are in the config.
NOT_WEIGHTS = {"rope_freqs.weight"}


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a tensor of the checkpoint stands in the file.

    Attributes:
        rows: of a tensor that holds several; None: all.
        pairs_of: heads whose rows are in pairs and have to be put in order; 0: none.
    """

    name: str
    shape: Shape
    rows: slice | None
    pairs_of: int


def convert(path: Path, folder: Path) -> None:
    """Writes the checkpoint of the GGUF file `path` into the existing `folder`.

    Raises:
        ModelError: the file cannot be used, or the disk has no room for its float32 weights.
    """
    file = GGUFFile(path)
    hf_config = config(file)
    parts = _parts(file, spec_of(HFConfig(hf_config, str(path))))
    num_bytes = sum(4 * math.prod(part.shape) for part in parts.values())
    _require_room(folder, num_bytes)
    tell(f"converting {path.name} to float32, {num_bytes / 1e6:.0f} MB (once)")
    _write_json(folder / "config.json", hf_config)
    _write_json(folder / "generation_config.json", generation_config(file))
    write_tokenizer(file.get, folder)
    shapes = {name: part.shape for name, part in parts.items()}
    write_float32(folder / "model.safetensors", shapes, lambda name: _read(file, parts[name]))


def half_split_rows(tensor: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of each head from (x0, y0, x1, y1, ...) to (x0, x1, ..., y0, y1, ...).

    Args:
        tensor: a weight [num_heads * head_dim, hidden_size] or a bias [num_heads * head_dim].
    """
    pairs = tensor.reshape(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.swapaxes(1, 2).reshape(tensor.shape)


def _parts(file: GGUFFile, spec: ModelSpec) -> dict[str, _Part]:
    """All tensors of the checkpoint. Raises ModelError where the file lacks one or has others."""
    parts = dict(_located(file, spec, architecture(file)))
    used = {part.name for part in parts.values()} | NOT_WEIGHTS
    others = sorted(file.tensors.keys() - used)
    if others:
        raise ModelError(
            f"{file.path} has the tensor {others[0]}, which no {file.architecture} model that we "
            "know has"
        )
    return parts


def _located(file: GGUFFile, spec: ModelSpec, kind: Architecture) -> Iterator[tuple[str, _Part]]:
    """Name in the checkpoint, and where that tensor is in the file."""
    names = gguf.get_tensor_name_map(kind.arch, spec.num_layers)
    for _, hf_name, expected in tensor_parts(spec):
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias")) or hf_name
        rows, fused = None, _fused(name)
        if name not in file.tensors and fused in file.tensors:
            rows, name = _rows_of(hf_name, spec), fused
        if name not in file.tensors:
            raise ModelError(f"{file.path} has no tensor {name} (for {hf_name})")
        shape = file.shape(name)
        if rows:
            shape = (rows.stop - rows.start, *shape[1:])
        if shape != expected:
            raise ModelError(
                f"{file.path}: tensor {name} has the shape {list(shape)} for {hf_name}, and the "
                f"metadata makes it {list(expected)}"
            )
        yield hf_name, _Part(name, shape, rows, _heads_in_pairs(name, spec) if kind.pairs else 0)


def _fused(name: str) -> str:
    """`blk.0.attn_k.bias` -> `blk.0.attn_qkv.bias`, which some files have instead."""
    for part in ("attn_q.", "attn_k.", "attn_v."):
        name = name.replace(part, "attn_qkv.")
    return name


def _rows_of(hf_name: str, spec: ModelSpec) -> slice:
    """Of q, k or v in a tensor of all three."""
    q, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    ends: Mapping[str, tuple[int, int]] = {"q": (0, q), "k": (q, q + kv), "v": (q + kv, q + 2 * kv)}
    return slice(*ends[hf_name.partition("_proj.")[0][-1]])


def _heads_in_pairs(name: str, spec: ModelSpec) -> int:
    if ".attn_q." in name:
        return spec.num_heads
    return spec.num_kv_heads if ".attn_k." in name else 0


def _read(file: GGUFFile, part: _Part) -> NDArray[np.float32]:
    tensor = file.float32(part.name)
    if part.rows:
        tensor = tensor[part.rows]
    return half_split_rows(tensor, part.pairs_of) if part.pairs_of else tensor


def _require_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise ModelError(
            f"{folder} has {free / 1e6:.0f} MB free and the float32 weights need "
            f"{num_bytes / 1e6:.0f} MB; make room, or set XDG_CACHE_HOME to another disk"
        )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
