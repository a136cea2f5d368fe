"""Each kind of model file through a whole engine, against transformers on the same numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file, save_file

import pdrt
from pdrt.tokenizer import Tokenizer
from tests.gguf_blocks import numbers, random_blocks
from tests.gguf_files import Array, Stored, write_gguf
from tests.hub_server import Hub
from tests.server_process import ServerProcess

PROMPT = [(7 * i) % 250 for i in range(40)]
GREEDY = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True}
# Every layer's tensor in another type; those that are not named stay float32.
MIXED = {
    "q_proj": Type.Q8_0,
    "k_proj": Type.Q4_K,
    "v_proj": Type.Q4_0,
    "o_proj": Type.Q6_K,
    "gate_proj": Type.Q4_1,
    "up_proj": Type.Q4_K,
    "down_proj": Type.Q6_K,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tokens_of(model: str, **settings: object) -> list[int]:
    """What a whole engine answers to PROMPT."""
    usual = {"dtype": "float32", "disaggregation_mode": "unified", "log_level": "error"}
    with pdrt.Engine(model, max_model_len=256, num_pages=64, **{**usual, **settings}) as engine:
        return engine.generate(PROMPT, GREEDY)[0].outputs[0].token_ids


def transformers_tokens(folder: Path) -> list[int]:
    from tests.checkpoints import greedy, transformers_model

    return greedy(transformers_model(folder), PROMPT, 24).output_token_ids


def test_a_checkpoint_in_shards_gives_the_tokens_of_the_whole(
    tiny_llama: Path, tmp_path: Path
) -> None:
    from tests.checkpoints import transformers_model

    shutil.copytree(tiny_llama, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    transformers_model(tiny_llama).save_pretrained(tmp_path / "m", max_shard_size="100KB")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    assert tokens_of(str(tmp_path / "m")) == transformers_tokens(tiny_llama)


def test_a_shard_that_is_damaged_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    from tests.checkpoints import transformers_model

    transformers_model(tiny_llama).save_pretrained(tmp_path, max_shard_size="100KB")
    second = sorted(tmp_path.glob("*.safetensors"))[1]
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(pdrt.PdrtError, match=f"{second.name} is truncated or not safetensors"):
        tokens_of(str(tmp_path))
    second.unlink()
    with pytest.raises(pdrt.PdrtError, match=f"names {second.name}, which is not in the folder"):
        tokens_of(str(tmp_path))


def test_a_gguf_file_of_all_quantised_types_gives_the_tokens_of_its_numbers(
    tmp_path: Path,
) -> None:
    """The blocks are random; transformers gets what their description makes of them."""
    from tests.checkpoints import make_llama
    from tests.gguf_files import interleaved

    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    llama = make_llama(tmp_path / "llama", **sizes)
    plain = dict(load_file(llama / "model.safetensors"))

    def stored(name: str, tensor: Array) -> Stored:
        kind = MIXED.get(name.split(".")[-2])
        if kind is None:
            return tensor, None
        blocks = random_blocks(kind, *tensor.shape, seed=len(name))
        plain[name] = numbers(kind, blocks)
        return blocks, kind

    path = write_gguf(llama, tmp_path / "m.gguf", stored=stored)
    for name, num_heads in (("q_proj", 4), ("k_proj", 2)):
        name = f"model.layers.0.self_attn.{name}.weight"
        order = interleaved(np.arange(len(plain[name])), num_heads)
        put_back = plain[name].copy()
        put_back[order] = plain[name]
        plain[name] = put_back
    save_file(plain, llama / "model.safetensors", {"format": "pt"})
    assert tokens_of(str(path)) == transformers_tokens(llama)


def test_a_phi_2_gguf_file_gives_the_tokens_of_the_original(tiny_phi: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny_phi, tmp_path / "m.gguf", architecture="phi2")
    assert tokens_of(str(path)) == transformers_tokens(tiny_phi)


def test_dummy_weights_give_the_same_tokens_in_both_modes(tiny_phi: Path) -> None:
    settings = {"load_format": "dummy", "dtype": "bfloat16"}
    separated = tokens_of(str(tiny_phi), disaggregation_mode="separated", **settings)
    assert tokens_of(str(tiny_phi), **settings) == separated


def test_a_server_runs_a_model_of_the_hub_under_its_name(
    hub: Hub, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    flags = ("--dtype", "float32", "--max-model-len", "256", "--disaggregation-mode", "unified")
    server = ServerProcess("--model", "tiny/llama", "--revision", "main", *flags)
    try:
        (model,) = server.client.get("/v1/models").json()["data"]
        assert model["id"] == "tiny/llama"
        answer = server.complete(model="tiny/llama", prompt=PROMPT, **GREEDY)
        assert answer.status_code == 200, answer.text
        assert "memory: weights" in server.log() and "fetching tiny/llama" in server.log()
        text = answer.json()["choices"][0]["text"]
        assert text == Tokenizer(tiny_llama).decode(transformers_tokens(tiny_llama))
    finally:
        server.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["separated", "unified"])
def test_phi_2_runs_at_full_size_without_files_or_network(mode: str) -> None:
    with pdrt.Engine(
        "microsoft/phi-2",
        load_format="dummy",
        disaggregation_mode=mode,
        num_pages=256,
        log_level="error",
    ) as engine:
        summary = engine.startup_summary()
        assert summary["weight_bytes"] == 2 * 2_779_683_840
        assert float(str(summary["load_seconds"])) < 60
        params = {**GREEDY, "max_tokens": 4}
        first, again = (engine.generate("Hello", params)[0] for _ in range(2))
        assert first.prompt_token_ids == [4 + byte for byte in b"Hello"]
        assert len(first.outputs[0].token_ids) == 4
        assert again.outputs[0].token_ids == first.outputs[0].token_ids
        assert first.text
