"""GGUF files: a model written as llama.cpp writes it comes back as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from pdrt.errors import ModelError
from pdrt.model.checkpoint import locate, read_spec
from pdrt.model.gguf import half_split_rows
from pdrt.model.gguf_tokenizer import build
from pdrt.model.source import resolve
from pdrt.tokenizer import Tokenizer as OurTokenizer
from tests.checkpoints import VOCAB_SIZE, make_llama

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Writer = gguf.GGUFWriter


def gguf_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name.replace("model.layers.", "blk.")


def interleaved(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """llama.cpp's order of q and k rows: row i and row i + half of a head beside each other."""
    head_dim = len(weight) // num_heads
    order = [
        head * head_dim + i + half
        for head in range(num_heads)
        for i in range(head_dim // 2)
        for half in (0, head_dim // 2)
    ]
    return weight[order]


def write_gguf(
    folder: Path,
    path: Path,
    change: Callable[[Writer], None] = lambda writer: None,
    architecture: str = "llama",
    quantised: str = "",
) -> Path:
    """The tiny llama in `folder` as a GGUF file; `quantised` names its tensors in Q8_0."""
    config = json.loads((folder / "config.json").read_text())
    writer = Writer(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    _write_tokenizer(folder, writer)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if ".q_proj." in name:
            tensor = interleaved(tensor, config["num_attention_heads"])
        if ".k_proj." in name:
            tensor = interleaved(tensor, config["num_key_value_heads"])
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised and quantised in name else None
        if kind is not None:
            tensor = gguf.quants.quantize(tensor, kind)
        writer.add_tensor(gguf_name(name), tensor, raw_dtype=kind)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(folder: Path, writer: Writer) -> None:
    vocab = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    kinds = [gguf.TokenType.NORMAL] * (VOCAB_SIZE - 1) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(VOCAB_SIZE - 1)
    writer.add_chat_template("{{ messages[0]['content'] }}")


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


def test_quantised_tensors_are_dequantised(tiny_llama: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny_llama, tmp_path / "m.gguf", quantised="mlp.")
    folder = resolve(str(path), tmp_path / "cache")
    name = "model.layers.0.mlp.down_proj.weight"
    ours, exact = (load_file(f / "model.safetensors")[name] for f in (folder, tiny_llama))
    # Q8_0: 32 numbers share a scale, kept in float16: half a step, and 127 / 2048 of one for that
    steps = np.abs(exact).reshape(-1, 32).max(-1) / 127
    error = np.abs(ours - exact).reshape(-1, 32).max(-1)
    assert (error <= 0.57 * steps).all() and error.max() > 0


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
    with pytest.raises(ModelError, match="architecture 'mamba'; of GGUF files only llama"):
        resolve(str(path), tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "scaling.type is 'yarn'"),
        (lambda w: w.add_rope_scaling_factor(4.0), "scaling.factor is 4.0"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), "rope_freqs"),
        (lambda w: w.add_rope_dimension_count(8), "rotates 8 of 16 dimensions"),
    ],
)
def test_other_rotary_embeddings_are_refused(
    tiny_llama: Path, tmp_path: Path, change: Callable[[Writer], None], message: str
) -> None:
    path = write_gguf(tiny_llama, tmp_path / "m.gguf", change)
    with pytest.raises(ModelError, match=message):
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


def tokenizer_metadata(**changes: object) -> Callable[[str], object]:
    tokens = ["a", "b", "ab", "1", "2", "12", "<s>", "<think>"]
    values: dict[str, object] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "merges": ["a b", "1 2"],
        "token_type": [1, 1, 1, 1, 1, 1, 3, 4],
        "bos_token_id": 6,
    } | changes
    return lambda key: values.get(key.removeprefix("tokenizer.ggml."))


@pytest.mark.parametrize(("pre", "ids"), [("gpt-2", [2, 5]), ("smollm", [2, 3, 4])])
def test_text_is_split_as_the_files_pre_tokenizer_does(pre: str, ids: list[int]) -> None:
    assert build(tokenizer_metadata(pre=pre)).encode("ab12").ids == ids


def test_bos_is_added_where_the_file_says_so() -> None:
    tokenizer = build(tokenizer_metadata(add_bos_token=True))
    assert tokenizer.encode("ab").ids == [6, 2]
    assert tokenizer.encode("ab", add_special_tokens=False).ids == [2]


def test_control_tokens_are_hidden_and_added_ones_shown() -> None:
    tokenizer = build(tokenizer_metadata())
    ids = tokenizer.encode("<s>a<think>b").ids
    assert ids == [6, 0, 7, 1]
    assert tokenizer.decode(ids) == "a<think>b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "tokenizer of kind 'llama'"),
        ({"pre": "deepseek-llm"}, "splits text by 'deepseek-llm'"),
        ({"merges": None}, "no metadata key tokenizer.ggml.merges"),
        ({"token_type": None}, "no metadata key tokenizer.ggml.token_type"),
    ],
)
def test_a_tokenizer_that_cannot_be_rebuilt_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        build(tokenizer_metadata(**changes))
