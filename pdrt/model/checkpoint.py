"""Reads what a checkpoint is and checks that it is whole, before any memory is taken for it.

A checkpoint is a folder in Hugging Face layout: config.json and safetensors files. Reads headers
only; the tensors themselves are read by pdrt.model.weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pdrt.errors import ModelError
from pdrt.model.families import sources, spec_of
from pdrt.model.hf_config import HFConfig
from pdrt.model.spec import ModelSpec, Shape, tensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
DTYPES = ("F32", "BF16", "F16")


def read_spec(folder: Path) -> ModelSpec:
    """The spec of the checkpoint in `folder`.

    Raises:
        ModelError: config.json is missing, cannot be understood, or needs code of its own.
    """
    path = folder / "config.json"
    config = HFConfig(_read_json(path), str(path))
    if config.get("auto_map") is not None:
        raise ModelError(
            f"{path} names Python code of its own (auto_map); pdrt never runs a model's code. If "
            "its architecture is one that pdrt has, delete the key in a copy"
        )
    _refuse_quantisation(config)
    spec = spec_of(config)
    ends, generation = spec.eos_token_ids, folder / "generation_config.json"
    if generation.is_file():
        ends = HFConfig(_read_json(generation), str(generation)).token_ids("eos_token_id") or ends
    # Some name tokens that only the tokenizer has; the model cannot end with those.
    return replace(spec, eos_token_ids=tuple(end for end in ends if end < spec.vocab_size))


def _refuse_quantisation(config: HFConfig) -> None:
    quantisation = config.get("quantization_config", config.get("compression_config"))
    if quantisation is None:
        return
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation
    raise ModelError(
        f"{config.place} says that the weights are quantised ({method}); of quantised models only "
        "GGUF files run: give one, or the model without quantisation"
    )


def locate(folder: Path, spec: ModelSpec) -> dict[str, Path]:
    """Name of each tensor of the checkpoint that the model needs -> its file.

    A head that is tied to the embedding is among them where the checkpoint has it all the same.

    Raises:
        ModelError: a file is truncated; a tensor is missing or has another shape or type.
    """
    found = _all_headers(folder)
    place: dict[str, Path] = {}
    for ours, name, shape in tensor_parts(spec):
        if name not in found:
            raise ModelError(f"{folder} has no tensor {name} (for {ours})")
        _check(name, shape, found[name])
        place[name] = found[name].path
    (head,) = sources(spec.family, "head.weight")
    if spec.tied_embeddings and head in found:
        place[head] = found[head].path
    return place


def _all_headers(folder: Path) -> dict[str, _Header]:
    """Of all tensors, by name; where several files have one, of the file that the index names."""
    found: dict[str, _Header] = {}
    files = weight_files(folder)
    indexed = {} if files == [folder / SINGLE] else _weight_map(folder)
    for path in files:
        for name, header in _headers(path).items():
            if name not in found or indexed.get(name) == path.name:
                found[name] = header
    return found


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file says of one of its tensors."""

    path: Path
    shape: Shape
    dtype: str


def _check(name: str, shape: Shape, header: _Header) -> None:
    if header.shape != shape:
        raise ModelError(
            f"{header.path}: tensor {name} has the shape {list(header.shape)}, and config.json "
            f"makes it {list(shape)}"
        )
    if header.dtype not in DTYPES:
        raise ModelError(
            f"{header.path}: tensor {name} has the type {header.dtype}; only {', '.join(DTYPES)} "
            "are read"
        )


def tensor_parts(spec: ModelSpec) -> Iterator[tuple[str, str, Shape]]:
    """Of each tensor that the model needs: our name of it, and name and shape of each part in the
    checkpoint."""
    for ours, shape in tensors(spec).items():
        names = sources(spec.family, ours)
        for name, part in zip(names, _split(spec, ours, shape, len(names)), strict=True):
            yield ours, name, part


def _split(spec: ModelSpec, ours: str, shape: Shape, num_parts: int) -> list[Shape]:
    """The shapes of the parts that a tensor of ours is joined from."""
    if num_parts == 1:
        return [shape]
    if ours.split(".")[-2] == "qkv":
        kv = spec.num_kv_heads * spec.head_dim
        return [(rows, *shape[1:]) for rows in (spec.num_heads * spec.head_dim, kv, kv)]
    return [(shape[0] // num_parts, *shape[1:])] * num_parts


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files: one, or those that an index names.

    Raises:
        ModelError: there are none, or not all.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise no_weights(str(folder), [path.name for path in folder.iterdir()])
    files = [folder / name for name in shards(folder)]
    there = {path.name for path in folder.iterdir() if path.is_file()}
    for file in files:
        if file.parent != folder or file.name not in there:
            raise ModelError(f"{folder / INDEX} names {file.name}, which is not in the folder")
    return files


def shards(folder: Path) -> list[str]:
    """Names of the files that the index in `folder` names, which need not be there."""
    return sorted({str(name) for name in _weight_map(folder).values()})


def _weight_map(folder: Path) -> dict[str, object]:
    """Name of each tensor -> that of its file, as the index says."""
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{folder / INDEX} has no weight_map")
    return weight_map


def no_weights(place: str, names: Iterable[str]) -> ModelError:
    """The error for a folder or repository that has these files, and no safetensors."""
    pickled = sorted(name for name in names if name.endswith(PICKLED))
    if not pickled:
        return ModelError(f"{place} has neither {SINGLE} nor {INDEX}")
    return ModelError(
        f"{place} has its weights as pickle only ({pickled[0]}), which pdrt never opens, as that "
        "runs the code in it; look for a revision with safetensors, or save it again with "
        "save_pretrained of transformers"
    )


def _headers(path: Path) -> dict[str, _Header]:
    """Of all tensors in a file, by name."""
    try:
        with path.open("rb"):
            pass  # safetensors calls every file that it may not read one that is not there
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    try:
        with safe_open(path, framework="numpy") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            return {
                name: _Header(path, tuple(part.get_shape()), part.get_dtype())
                for name, part in parts.items()
            }
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is truncated or not safetensors ({error}); fetch it again"
        ) from None


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds {type(value).__name__}, not an object")
    return value
