"""--quantization int8: half the weight memory, tokens that no server's shape changes, CPU only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import torch

import pdrt
from pdrt import startup
from pdrt._C import Memory
from pdrt.config import settings_of
from pdrt.errors import ConfigError
from pdrt.kernels.cpu_linear import PackedLinear, unpacked
from pdrt.model.checkpoint import read_spec
from pdrt.model.dummy import load_dummy
from pdrt.model.layout import WeightDType, WeightFormat, weight_layout
from pdrt.model.weights import Weight, load_weights, map_weights
from pdrt.serve.summary import summary
from tests.checkpoints import make_llama
from tests.model_server import Shape, Weights, make_server, request

NUM_TOKENS = 24
PROMPTS = [[7 * i + j * j % 50 + 1 for j in range(length)] for i, length in enumerate((3, 17, 70))]
SHAPES = [
    Shape(max_model_len=128, num_pages=512),
    Shape("unified", page_size=32, chunk=24, max_model_len=128, num_pages=32),
    Shape("2P2D", chunk=16, max_model_len=128, num_pages=64, threads=1),
]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


def tokens_of(weights: Weights, shape: Shape, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Greedy tokens of all prompts, which run at once."""
    server = make_server(weights, shape)
    asked = [request(f"r{i}", p, max_tokens=NUM_TOKENS) for i, p in enumerate(prompts)]
    clients = server.run(asked)
    server.check_empty()
    return [client.tokens for client in clients]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tokens_depend_on_no_mode_page_chunk_or_neighbour(
    tied: Path, tiny_llama: Path, dtype: WeightDType
) -> None:
    for folder in (tied, tiny_llama):
        weights = Weights(folder, dtype, quantization="int8")
        alone = [tokens_of(weights, SHAPES[0], [prompt])[0] for prompt in PROMPTS]
        assert all(len(tokens) == NUM_TOKENS for tokens in alone)
        for shape in SHAPES:
            assert tokens_of(weights, shape, PROMPTS) == alone, shape


def test_an_engine_gives_the_tokens_of_one_process(tiny_llama: Path) -> None:
    weights = Weights(tiny_llama, quantization="int8")
    settings = {"dtype": "float32", "quantization": "int8", "max_model_len": 128}
    with pdrt.Engine(str(tiny_llama), log_level="error", **settings) as engine:
        params = pdrt.SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
        outputs = engine.generate(PROMPTS, params)
        facts = engine.startup_summary()
    ours = [out.outputs[0].token_ids for out in outputs]
    assert ours == tokens_of(weights, SHAPES[0], PROMPTS)
    assert facts["weight_bytes"] == weights.memory.num_bytes
    assert ", float32, int8 weights, separated\n" in summary(facts, "m", "http://x", 0.1)


# -- memory ---------------------------------------------------------------------------------------


def loaded(folder: Path, form: WeightFormat, seed: int | None) -> dict[str, Weight]:
    """The checkpoint's weights, or with a seed random ones."""
    layout = weight_layout(read_spec(folder), form)
    memory = Memory.create("test weights", layout.num_bytes)
    if seed is None:
        load_weights(folder, form, memory)
    else:
        load_dummy(folder, form, memory, seed)
    return map_weights(memory, layout)


@pytest.mark.parametrize("seed", [None, 1])
def test_matrices_are_off_by_half_a_step_and_the_rest_is_as_it_was(
    tiny_llama: Path, seed: int | None
) -> None:
    plain = loaded(tiny_llama, WeightFormat("float32"), seed)
    int8 = loaded(tiny_llama, WeightFormat("float32", quantization="int8"), seed)
    for name, weight in plain.items():
        ours = int8[name]
        if isinstance(weight, torch.Tensor):
            assert isinstance(ours, torch.Tensor) and torch.equal(ours, weight), name
            continue
        assert isinstance(ours, PackedLinear) and ours.packed.is_int8
        exact = unpacked(weight)
        step = exact.abs().amax(1, keepdim=True) / 127
        assert ((unpacked(ours) - exact).abs() <= step * 0.50001).all(), name


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1 / 4), ("bfloat16", 1 / 2)])
def test_the_plan_counts_int8_weights(
    smollm2: Path, dtype: str, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A scale for each output: 4 bytes beside the 576 or 1536 of its inputs."""
    caplog.set_level("INFO", "pdrt")
    plans = [
        startup.make_plan(
            settings_of(model=str(smollm2), dtype=dtype, quantization=quantization, num_pages=512)
        )
        for quantization in ("none", "int8")
    ]
    plain, int8 = (plan.server for plan in plans)
    assert share < int8.weight_bytes / plain.weight_bytes < share * 1.01
    assert (int8.dtype, int8.kv_bytes) == (plain.dtype, plain.kv_bytes)
    assert int8.namespace != plain.namespace  # the same tokens have another KV
    assert f"int8 weights {int8.weight_bytes / 2**30:.2f} GiB" in caplog.text


# -- what is refused ------------------------------------------------------------------------------


def test_a_gpu_has_no_int8(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "choose_device", lambda wanted: "cuda:1")
    with pytest.raises(ConfigError, match=r"--quantization is int8, .* device is cuda:1; give"):
        startup.make_plan(settings_of(model=str(tiny_llama), quantization="int8"))


def test_an_unknown_quantization_is_named() -> None:
    with pytest.raises(ConfigError, match="--quantization is 'int3'; give one of none, int8"):
        msgspec.structs.replace(settings_of(), quantization="int3")
