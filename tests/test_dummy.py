"""Random weights: the same for the same seed, small enough for bfloat16, for any config."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from pdrt._C import Memory
from pdrt.byte_tokens import bytes_in_order
from pdrt.config import settings_of
from pdrt.errors import ConfigError, ModelError
from pdrt.model import dummy
from pdrt.model.byte_tokenizer import SMALLEST_VOCAB, build
from pdrt.model.checkpoint import read_spec
from pdrt.model.dummy import fill, load_dummy
from pdrt.model.layout import WeightDType, WeightFormat, weight_layout
from pdrt.model.source import SHIPPED, resolve
from pdrt.model.spec import tensors
from pdrt.model.weights import map_weights
from pdrt.startup import make_plan
from pdrt.tokenizer import Tokenizer
from tests import paged
from tests.test_weights import in_rows


def drawn(folder: Path, dtype: WeightDType, seed: int = 0) -> dict[str, torch.Tensor]:
    layout = weight_layout(read_spec(folder), WeightFormat(dtype))
    memory = Memory.create("test weights", layout.num_bytes)
    load_dummy(folder, WeightFormat(dtype), memory, seed)
    return {name: in_rows(weight) for name, weight in map_weights(memory, layout).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights(tiny_phi: Path, dtype: WeightDType) -> None:
    first, again, other = (drawn(tiny_phi, dtype, seed) for seed in (3, 3, 4))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        assert not torch.equal(tensor, other[name]), name


def test_a_tensor_depends_on_its_name_and_on_no_other_tensor() -> None:
    a, b = torch.empty(64, 64), torch.empty(64, 64)
    fill({"layers.0.up.weight": a, "layers.1.up.weight": b}, seed=0)
    assert not torch.equal(a, b)
    alone = torch.empty(64, 64)
    fill({"layers.1.up.weight": alone}, seed=0)
    assert torch.equal(alone, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 7, dummy.CHUNK, 2 * dummy.CHUNK + 3])
def test_every_number_is_small_and_of_either_sign(dtype: torch.dtype, size: int) -> None:
    values = torch.full((size,), math.nan, dtype=dtype)
    fill({"layers.0.up.weight": values}, seed=0)
    magnitude = values.abs()
    assert (magnitude >= 1 / 64).all() and (magnitude < 1 / 32).all()
    if size >= dummy.CHUNK:
        # The mean of n numbers of deviation 0.024 is within 5 of its own deviations of 0.
        assert abs(values.double().mean()) < 5 * 0.024 / math.sqrt(size)
        assert values.double().std() == pytest.approx(math.sqrt(7 / 3) / 64, rel=0.01)
        assert values.unique().numel() >= 256  # both signs of all 128 mantissas of bfloat16


@pytest.mark.parametrize(("family", "norm"), [("phi", 1.0), ("qwen3", 1.0), ("gemma", 0.0)])
def test_norms_multiply_by_nearly_one(tmp_path: Path, family: str, norm: float) -> None:
    """Gemma adds one to the weights of its norms."""
    from tests.checkpoints import make

    for name, tensor in drawn(make(family, tmp_path), "float32").items():
        near = norm if "norm" in name and name.endswith("weight") else 0.0
        assert (tensor - near).abs().max() < 1 / 31, name


@pytest.mark.parametrize("checkpoint", ["tiny_llama", "tiny_phi"])
def test_logits_are_finite_in_bfloat16(
    checkpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged, "load_weights", partial(load_dummy, seed=0))
    model = paged.PagedModel(request.getfixturevalue(checkpoint), "bfloat16")
    logits = model.logits((model.request(), range(40)))
    assert logits.isfinite().all() and logits.std() > 0


# -- the byte-level tokenizer ---------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [SMALLEST_VOCAB, 300, 51200])
@pytest.mark.parametrize(
    "text", ["Hello", "Grüße, 世界 🙂\r\n\t\0", " a  b ", "<s></s> <260> Ġ", ""]
)
def test_text_is_one_token_a_byte_and_comes_back(vocab_size: int, text: str) -> None:
    tokenizer = build(vocab_size, {2})
    plain = text.replace("<s>", "").replace("</s>", "")
    ids = tokenizer.encode(plain).ids
    assert ids == [4 + byte for byte in plain.encode()]
    assert tokenizer.decode(ids) == plain


def test_special_tokens_are_known_by_name_and_give_no_text() -> None:
    tokenizer = build(300, {270})
    assert tokenizer.encode("<s>a</s>").ids == [1, 4 + ord("a"), 2]
    assert tokenizer.decode([0, 1, 2, 3, 270]) == ""
    assert tokenizer.decode([260, 271]) == "<260><271>"


def test_the_alphabet_is_that_of_byte_level_bpe() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    byte_level = ByteLevel(add_prefix_space=False, use_regex=False)
    for byte in range(128):  # each is one character of UTF-8
        ((written, _),) = byte_level.pre_tokenize_str(chr(byte))
        assert written == bytes_in_order()[byte]
    assert set(bytes_in_order()) == set(ByteLevel.alphabet())


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(ModelError, match="259 tokens is too small .* needs 260"):
        build(259, ())


# -- configs --------------------------------------------------------------------------------------


@pytest.fixture
def config_only(tiny_phi: Path, tmp_path: Path) -> Callable[..., Path]:
    """A folder with nothing but the config of a small phi."""

    def make(**changes: object) -> Path:
        folder = tmp_path / "config"
        folder.mkdir(exist_ok=True)
        config = json.loads((tiny_phi / "config.json").read_text())
        sized = {"vocab_size": 300, "eos_token_id": 299}
        (folder / "config.json").write_text(json.dumps(config | sized | changes))
        return folder

    return make


def test_a_config_alone_gets_a_tokenizer_and_keeps_its_folder_as_it_is(
    config_only: Callable[..., Path], tmp_path: Path
) -> None:
    given = config_only()
    folder = resolve(str(given), tmp_path / "cache", load_format="dummy")
    assert [path.name for path in given.iterdir()] == ["config.json"]
    assert read_spec(folder) == read_spec(given)
    tokenizer = Tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("Grüße")) == "Grüße"
    assert tokenizer.decode([299]) == ""  # ends a request
    assert resolve(str(given), tmp_path / "cache", load_format="dummy") == folder
    config_only(hidden_act="gelu_pytorch_tanh")
    assert resolve(str(given), tmp_path / "cache", load_format="dummy") != folder


def test_a_tokenizer_beside_the_config_is_used(tiny_llama: Path, tmp_path: Path) -> None:
    assert resolve(str(tiny_llama), tmp_path, load_format="dummy") == tiny_llama


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "never runs a model's code"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantised \(gptq\)"),
        ({"vocab_size": 100}, "100 tokens is too small"),
        ({"architectures": ["MambaForCausalLM"]}, "'MambaForCausalLM' is not supported"),
    ],
)
def test_what_cannot_run_is_refused_with_dummy_weights_too(
    config_only: Callable[..., Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    folder = config_only(**changes)
    with pytest.raises(ModelError, match=message):
        resolve(str(folder), tmp_path / "cache", load_format="dummy")


def test_phi_2_ships_with_pdrt(tmp_path: Path) -> None:
    folder = resolve("microsoft/phi-2", tmp_path, load_format="dummy")
    spec = read_spec(folder)
    assert sum(math.prod(shape) for shape in tensors(spec).values()) == 2_779_683_840
    assert (spec.num_layers, spec.num_heads, spec.head_dim) == (32, 32, 80)
    assert spec.eos_token_ids == (50256,) and spec.max_position_embeddings == 2048
    for name in ("microsoft/phi-2", "microsoft/other"):
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
            resolve(name, tmp_path, load_format="auto")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        resolve("microsoft/other", tmp_path, load_format="dummy")


def test_shipped_configs_are_package_data() -> None:
    import tomllib

    pyproject = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    (pattern,) = pyproject["tool"]["setuptools"]["package-data"]["pdrt.model.configs"]
    shipped = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert shipped and sorted(SHIPPED.glob(pattern)) == sorted(shipped)


def test_the_memory_is_stated_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pdrt import machine

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "available_memory", lambda: 20 << 30)
    monkeypatch.setattr(machine, "has_bfloat16", lambda: True)
    with caplog.at_level("INFO", "pdrt"):
        plan = make_plan(settings_of(model="microsoft/phi-2", load_format="dummy", num_pages=256))
    assert plan.server.dtype == "bfloat16" and plan.model_name == "microsoft/phi-2"
    # 2,779,683,840 numbers of 2 bytes; a page: 32 layers, K and V, 32 heads, 16 tokens, 80 values
    assert "weights 5.18 GiB, KV pool 1.25 GiB (256 pages), 2 workers 0.78 GiB" in caplog.text
    assert "7.21 GiB of 20.00 GiB available are needed" in caplog.text


@pytest.mark.parametrize("model", ["m.gguf", "org/name:m.gguf"])
def test_a_file_has_no_config_for_dummy_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=f"--load-format is dummy and '{model}' is a file"):
        resolve(model, tmp_path, load_format="dummy")
