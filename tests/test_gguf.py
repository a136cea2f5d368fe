"""GGUF files: a model written as llama.cpp writes it comes back as it was."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file

from pdrt.errors import ModelError
from pdrt.model.checkpoint import locate, read_spec
from pdrt.model.gguf import half_split_rows
from pdrt.model.source import resolve
from pdrt.tokenizer import Tokenizer as OurTokenizer
from tests.checkpoints import make, make_llama
from tests.gguf_blocks import PLAIN, numbers, random_blocks
from tests.gguf_files import Array, Stored, Writer, interleaved, write_gguf


def test_a_converted_model_is_the_one_that_was_written(tiny_llama: Path, tmp_path: Path) -> None:
    folder = resolve(str(write_gguf(tiny_llama, tmp_path / "m.gguf")), tmp_path / "cache")
    ours, theirs = (load_file(f / "model.safetensors") for f in (folder, tiny_llama))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    assert read_spec(folder) == read_spec(tiny_llama)


def test_the_tokenizer_and_the_chat_template_come_along(tiny_llama: Path, tmp_path: Path) -> None:
    folder = resolve(str(write_gguf(tiny_llama, tmp_path / "m.gguf")), tmp_path / "cache")
    ours, theirs = OurTokenizer(folder), OurTokenizer(tiny_llama)
    for text in ("Grüße, 12 € the!", "a<|end|>b"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours.apply_chat_template([{"role": "user", "content": "Hi"}]) == "Hi"


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16])
def test_halved_floats_come_back_exactly(tiny_llama: Path, tmp_path: Path, kind: Type) -> None:
    def stored(name: str, tensor: Array) -> Stored:
        if tensor.ndim == 1:
            return tensor, None
        if kind is Type.F16:
            return tensor.astype(np.float16), None
        return (tensor.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8), kind

    folder = resolve(str(write_gguf(tiny_llama, tmp_path / "m.gguf", stored=stored)), tmp_path)
    ours, exact = (load_file(f / "model.safetensors") for f in (folder, tiny_llama))
    for name, tensor in exact.items():
        if tensor.ndim == 2 and kind is Type.F16:
            tensor = tensor.astype(np.float16).astype(np.float32)
        elif tensor.ndim == 2:  # cut off after 16 bits
            tensor = (tensor.view(np.uint32) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    assert read_spec(folder).dtype == "bfloat16"


@pytest.mark.parametrize("kind", PLAIN)
def test_each_quantised_type_is_what_its_description_says(tmp_path: Path, kind: Type) -> None:
    """All bits of the blocks are random, so every field of them is seen with many values."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    llama = make_llama(tmp_path / "llama", **sizes)
    blocks = random_blocks(kind, 256, 256)

    def stored(name: str, tensor: Array) -> Stored:
        return (blocks, kind) if ".down_proj." in name else (tensor, None)

    folder = resolve(str(write_gguf(llama, tmp_path / "m.gguf", stored=stored)), tmp_path)
    ours = load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    plain = numbers(kind, blocks)
    assert np.abs(plain).max() > 0.1
    # The library computes in float32: a product of three numbers and a difference.
    np.testing.assert_allclose(ours, plain, rtol=4 * 2**-24, atol=4 * 2**-24)


def test_phi_2_files_are_read_with_q_k_and_v_apart_or_in_one(
    tiny_phi: Path, tmp_path: Path
) -> None:
    apart = write_gguf(tiny_phi, tmp_path / "apart.gguf", architecture="phi2")
    exact = load_file(tiny_phi / "model.safetensors")

    def without(name: str, tensor: Array) -> Stored | None:
        return None if re.search(r"\.[qkv]_proj\.", name) else (tensor, None)

    def in_one(writer: Writer) -> None:
        for layer, kind in itertools.product(range(2), ("weight", "bias")):
            prefix = f"model.layers.{layer}.self_attn"
            parts = [exact[f"{prefix}.{part}_proj.{kind}"] for part in "qkv"]
            writer.add_tensor(f"blk.{layer}.attn_qkv.{kind}", np.concatenate(parts))

    one = write_gguf(tiny_phi, tmp_path / "one.gguf", in_one, "phi2", without)
    for path in (apart, one):
        folder = resolve(str(path), tmp_path / "cache")
        ours = load_file(folder / "model.safetensors")
        assert ours.keys() == exact.keys()
        for name, tensor in exact.items():
            np.testing.assert_array_equal(ours[name], tensor, err_msg=f"{path.name} {name}")
        assert read_spec(folder) == read_spec(tiny_phi)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_qwen_files_are_read(tmp_path: Path, architecture: str) -> None:
    """Biases on q, k and v; norms on the heads of q and k; rows of q and k as they are."""
    qwen = make(architecture, tmp_path / "qwen", use_sliding_window=False)
    path = write_gguf(qwen, tmp_path / "m.gguf", architecture=architecture)
    folder = resolve(str(path), tmp_path / "cache")
    ours, theirs = (load_file(f / "model.safetensors") for f in (folder, qwen))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    assert read_spec(folder) == read_spec(qwen)


def test_tied_embeddings_are_seen_from_the_missing_output(tmp_path: Path) -> None:
    tied = make_llama(tmp_path / "tied", tie_word_embeddings=True)
    folder = resolve(str(write_gguf(tied, tmp_path / "m.gguf")), tmp_path / "cache")
    assert read_spec(folder).tied_embeddings
    locate(folder, read_spec(folder))


def test_a_file_is_converted_once_and_again_when_it_has_changed(
    tiny_llama: Path, tmp_path: Path
) -> None:
    path = write_gguf(tiny_llama, tmp_path / "m.gguf")
    first = resolve(str(path), tmp_path / "cache")
    made = first.stat().st_mtime_ns
    assert resolve(str(path), tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == made
    os.utime(path, ns=(1, 1))
    assert resolve(str(path), tmp_path / "cache") != first


def test_rows_are_put_back_for_weights_and_biases() -> None:
    weight = np.arange(24, dtype=np.float32).reshape(12, 2)
    np.testing.assert_array_equal(half_split_rows(interleaved(weight, 3), 3), weight)
    bias = weight[:, 0].copy()
    np.testing.assert_array_equal(half_split_rows(interleaved(bias, 2), 2), bias)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.05, 0.5, 0.999])
def test_a_truncated_file_is_named(tiny_llama: Path, tmp_path: Path, share: float) -> None:
    path = write_gguf(tiny_llama, tmp_path / "m.gguf")
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(ModelError, match="m.gguf is not a GGUF file or is truncated"):
        resolve(str(path), tmp_path / "cache")
    assert [p.suffix for p in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


def test_another_architecture_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny_llama, tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(ModelError, match="architecture 'mamba'; of GGUF files only llama, qwen2"):
        resolve(str(path), tmp_path / "cache")


def test_a_part_of_a_heads_rotation_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny_llama, tmp_path / "m.gguf", lambda w: w.add_rope_dimension_count(8))
    with pytest.raises(ModelError, match="rotates 8 of 16 dimensions"):
        resolve(str(path), tmp_path / "cache")


def test_a_tensor_that_llama_has_not_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    def add(writer: Writer) -> None:
        writer.add_tensor("blk.0.attn_sinks.weight", np.zeros(4, np.float32))

    path = write_gguf(tiny_llama, tmp_path / "m.gguf", add)
    with pytest.raises(ModelError, match="tensor blk.0.attn_sinks.weight"):
        resolve(str(path), tmp_path / "cache")


def test_a_part_of_a_model_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="no token_embd.weight; files in several parts"):
        resolve(str(tmp_path / "m.gguf"), tmp_path / "cache")


def test_a_disk_without_room_is_seen_before_converting(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pdrt.model import gguf as converter

    path = write_gguf(tiny_llama, tmp_path / "m.gguf")
    monkeypatch.setattr(converter.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000})())
    with pytest.raises(ModelError, match="0 MB free and the float32 weights need"):
        resolve(str(path), tmp_path / "cache")
