"""benchmarks/peers: every contestant gets the same numbers, whatever its file format."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.peers.weights import NOT_COPIED, Weights, write_all
from pdrt.model.gguf import convert
from tests.gguf_files import write_gguf


@pytest.fixture(scope="module")
def source(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_llama, tmp_path_factory.mktemp("source") / "m.gguf")


@pytest.fixture(scope="module")
def made(source: Path) -> Weights:
    write_all(source, source.parent)
    return Weights(source.parent)


def converted(path: Path, folder: Path) -> dict[str, torch.Tensor]:
    """What pdrt's own reader makes of a GGUF file."""
    folder.mkdir()
    convert(path, folder)
    return load_file(folder / "model.safetensors")


def test_the_checkpoint_is_the_model_rounded_to_bfloat16_once(
    made: Weights, tiny_llama: Path
) -> None:
    ours = load_file(made.checkpoint / "model.safetensors")
    theirs = load_file(tiny_llama / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, exact in theirs.items():
        assert ours[name].dtype is torch.bfloat16
        assert torch.equal(ours[name], exact.to(torch.bfloat16)), name


def test_the_bfloat16_file_has_the_checkpoints_very_bits(made: Weights, tmp_path: Path) -> None:
    checkpoint = load_file(made.checkpoint / "model.safetensors")
    tensors = converted(made.gguf("bf16"), tmp_path / "back")
    assert tensors.keys() == checkpoint.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, checkpoint[name].float()), name


def test_float16_holds_the_same_numbers_down_to_its_smallest(made: Weights, tmp_path: Path) -> None:
    checkpoint = load_file(made.checkpoint / "model.safetensors")
    for name, tensor in converted(made.gguf("f16"), tmp_path / "back").items():
        exact = checkpoint[name].float()
        normal = exact.abs() >= torch.finfo(torch.float16).tiny
        assert torch.equal(tensor[normal], exact[normal]), name
        assert (tensor - exact).abs().max() <= 2**-25, name  # half of float16's smallest step


def test_metadata_comes_along_but_for_how_it_was_quantised(source: Path, made: Weights) -> None:
    for kind in ("bf16", "f16"):
        ours, theirs = (gguf.GGUFReader(path).fields for path in (made.gguf(kind), source))
        kept = [n for n in theirs if n not in NOT_COPIED and not n.startswith("GGUF.")]
        assert len(kept) > 10
        for name in kept:
            assert ours[name].contents() == theirs[name].contents(), name


def test_vectors_are_float32_in_gguf_as_llama_cpp_expects(made: Weights) -> None:
    for tensor in gguf.GGUFReader(made.gguf("bf16")).tensors:
        is_vector = len(tensor.shape) == 1
        assert (tensor.tensor_type.name == "F32") == is_vector, tensor.name
        if is_vector:  # rounded all the same
            bits = np.asarray(tensor.data, np.float32).view(np.uint32)
            assert not (bits & 0xFFFF).any(), tensor.name
