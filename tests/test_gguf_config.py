"""The metadata of GGUF files in the words of Hugging Face configs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from pdrt.errors import ModelError
from pdrt.model.checkpoint import locate, read_spec
from pdrt.model.gguf import convert
from pdrt.model.gguf_config import config
from pdrt.model.gguf_file import GGUFFile
from tests.gguf_files import Writer, write_gguf

Scaling = dict[str, object]


def words(
    folder: Path,
    path: Path,
    change: Callable[[Writer], None] = lambda writer: None,
    architecture: str = "llama",
) -> dict[str, object]:
    return config(GGUFFile(write_gguf(folder, path, change, architecture)))


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("llama", ["LlamaForCausalLM", "llama"]),
        ("qwen2", ["Qwen2ForCausalLM", "qwen2"]),
        ("qwen3", ["Qwen3ForCausalLM", "qwen3"]),
    ],
)
def test_the_sizes_are_those_of_the_original_config(
    tiny_llama: Path, tmp_path: Path, architecture: str, names: list[str]
) -> None:
    ours = words(tiny_llama, tmp_path / "m.gguf", architecture=architecture)
    theirs = json.loads((tiny_llama / "config.json").read_text())
    assert [*ours["architectures"], ours["model_type"]] == names  # type: ignore[misc]
    same = ours.keys() & theirs.keys() - {"architectures", "model_type", "rope_theta"}
    assert len(same) > 10
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert ours["rope_theta"] == theirs["rope_parameters"]["rope_theta"]


def yarn(writer: Writer) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(512)


def linear(writer: Writer) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(2.5)


@pytest.mark.parametrize(
    ("change", "scaling"),
    [
        (lambda w: None, None),
        (lambda w: w.add_rope_scaling_factor(1.0), None),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.NONE), None),
        (lambda w: w.add_rope_scaling_factor(4.0), {"rope_type": "linear", "factor": 4.0}),
        (linear, {"rope_type": "linear", "factor": 2.5}),
        (
            yarn,
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        ),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), None),
    ],
)
def test_rope_scaling_is_said_in_hugging_faces_words(
    tiny_llama: Path, tmp_path: Path, change: Callable[[Writer], None], scaling: Scaling | None
) -> None:
    assert words(tiny_llama, tmp_path / "m.gguf", change)["rope_scaling"] == scaling


def divisors(factor: float, low_freq_factor: float = 1.0) -> NDArray[np.float32]:
    """What transformers divides the frequencies of a Llama 3.1 with heads of 128 by."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": low_freq_factor,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(head_dim=128, rope_parameters=rope, max_position_embeddings=131072)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    plain = 1.0 / 500000.0 ** (np.arange(0, 128, 2) / 128)
    return (plain / scaled.double().numpy()).astype(np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_scaling_is_known_by_its_divisors(
    tiny_llama: Path, tmp_path: Path, factor: float
) -> None:
    def change(writer: Writer) -> None:
        writer.add_tensor("rope_freqs.weight", divisors(factor))
        writer.kv_data[0]["llama.rope.freq_base"].value = 500000.0

    scaling = words(tiny_llama, tmp_path / "m.gguf", change)["rope_scaling"]
    assert scaling == {
        "rope_type": "llama3",
        "factor": pytest.approx(factor, rel=1e-6),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_other_divisors_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    def change(writer: Writer) -> None:
        writer.add_tensor("rope_freqs.weight", divisors(8.0, low_freq_factor=2.0))
        writer.kv_data[0]["llama.rope.freq_base"].value = 500000.0

    with pytest.raises(ModelError, match="another way than Llama 3.1"):
        words(tiny_llama, tmp_path / "m.gguf", change)


def test_a_sliding_window_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="attention.sliding_window is 24: windows of GGUF files"):
        words(tiny_llama, tmp_path / "m.gguf", lambda w: w.add_sliding_window(24))
    words(tiny_llama, tmp_path / "n.gguf", lambda w: w.add_sliding_window(2048))  # all of it


@pytest.mark.parametrize(
    ("key", "neutral", "other"),
    [
        ("attention.scale", 0.0, 0.5),
        ("attn_logit_softcapping", 0.0, 50.0),
        ("logit_scale", 1.0, 0.0625),
        ("embedding_scale", 1.0, 12.0),
        ("rope.scaling.attn_factor", 1.0, 1.19),
        ("rope.scaling.yarn_beta_fast", 32.0, 16.0),
    ],
)
def test_what_would_change_the_scores_is_refused(
    tiny_llama: Path, tmp_path: Path, key: str, neutral: float, other: float
) -> None:
    words(tiny_llama, tmp_path / "m.gguf", lambda w: w.add_float32(f"llama.{key}", neutral))
    with pytest.raises(ModelError, match=rf"llama\.{key} is {other:.3g}.*: scales and caps"):
        words(tiny_llama, tmp_path / "n.gguf", lambda w: w.add_float32(f"llama.{key}", other))


def test_special_tokens_that_there_are_not_are_none(tiny_llama: Path, tmp_path: Path) -> None:
    """-1, as some converters write it, and ids beyond the vocabulary."""

    def change(writer: Writer) -> None:
        writer.add_pad_token_id(2**32 - 1)
        writer.add_unk_token_id(2**32 - 1)
        writer.add_eot_token_id(9999)

    path = write_gguf(tiny_llama, tmp_path / "m.gguf", change)
    (folder := tmp_path / "out").mkdir()
    convert(path, folder)
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert 9999 not in ends
    assert "pad_token" not in json.loads((folder / "tokenizer_config.json").read_text())
    locate(folder, read_spec(folder))


def test_other_kinds_of_scaling_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    def change(writer: Writer) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)

    with pytest.raises(ModelError, match="scaling.type is 'longrope': only linear, yarn"):
        words(tiny_llama, tmp_path / "m.gguf", change)
