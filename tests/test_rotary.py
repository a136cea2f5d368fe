"""Rotary embeddings: each kind of scaling is that of transformers, and fixed for a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pdrt.model.checkpoint import read_spec
from pdrt.model.hf_config import HFConfig
from pdrt.model.rope import Rope, rope_of
from pdrt.model.rotary import attention_factor, rotary_frequencies, rotary_table
from tests.checkpoints import greedy, logits_of, make, random_tokens, transformers_model
from tests.model_server import Shape, Weights, make_server, request
from tests.oracle import assert_equals
from tests.paged import PagedModel, in_chunks
from tests.rope_cases import DYNAMIC, LINEAR, LLAMA3, LONGROPE, YARN, Parameters

BY_LENGTH = ("dynamic", "longrope")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config_of(parameters: Parameters, max_positions: int = 256) -> LlamaConfig:
    """head_dim 16, so 8 rotated pairs."""
    return LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=max_positions,
        rope_parameters={"rope_theta": 10000.0} | parameters,
    )


def rope(parameters: Parameters, max_positions: int = 256) -> Rope:
    return rope_of(HFConfig(config_of(parameters, max_positions).to_dict(), "config.json"), 16)


# -- the formulas ---------------------------------------------------------------------------------


@pytest.mark.parametrize("max_model_len", [40, 64, 65, 256, 1000])
@pytest.mark.parametrize(
    "parameters",
    [
        LINEAR,
        DYNAMIC,
        DYNAMIC | {"factor": 1.0},
        YARN,
        YARN | {"factor": 40.0, "beta_fast": 16, "beta_slow": 2, "truncate": False},
        YARN | {"mscale": 0.707, "mscale_all_dim": 1.2},
        YARN | {"attention_factor": 0.8},
        YARN | {"original_max_position_embeddings": 4},  # the ramp begins before the first pair
        YARN | {"original_max_position_embeddings": 100_000, "rope_theta": 50.0},  # ends past last
        LLAMA3,
        LLAMA3 | {"low_freq_factor": 2.0, "high_freq_factor": 32.0, "rope_theta": 500000.0},
        LONGROPE,
        LONGROPE | {"factor": 32.0},
        LONGROPE | {"attention_factor": 1.5},
    ],
    ids=str,
)
def test_frequencies_are_those_of_transformers(parameters: Parameters, max_model_len: int) -> None:
    config = config_of(parameters)
    function = ROPE_INIT_FUNCTIONS[str(parameters["rope_type"])]
    expected, factor = function(config, torch.device("cpu"), seq_len=max_model_len)
    ours = rope(parameters)
    assert torch.equal(rotary_frequencies(ours, max_model_len), expected)
    assert attention_factor(ours) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("parameters", [LINEAR, YARN, LLAMA3], ids=lambda p: p["rope_type"])
def test_late_positions_turn_as_far_as_in_transformers(parameters: Parameters) -> None:
    late = torch.arange(32_000, 32_768)
    config = config_of(parameters, max_positions=32_768)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), late[None])
    expected = torch.cat([cos[0, :, :8], sin[0, :, :8]], dim=-1)  # each pair's angle comes twice
    table = rotary_table(rope(parameters, max_positions=32_768), 32_768)
    torch.testing.assert_close(table[late], expected, rtol=0, atol=1e-6)


def test_the_table_has_cosines_then_sines_of_every_position(tiny_phi: Path) -> None:
    table = rotary_table(read_spec(tiny_phi).rope, 300)
    assert table.shape == (300, 32) and table.dtype == torch.float32
    # pair 3 of 16 at position 100 turns by 100 * 10000^(-6/32)
    angle = torch.tensor(100 * 10000.0 ** (-6 / 32))
    torch.testing.assert_close(table[100, 3], angle.cos(), rtol=0, atol=1e-5)
    torch.testing.assert_close(table[100, 19], angle.sin(), rtol=0, atol=1e-5)


def test_the_attention_factor_is_in_the_table() -> None:
    plain, sharper = rope(YARN | {"attention_factor": 1.0}), rope(YARN | {"attention_factor": 2.0})
    assert torch.equal(2 * rotary_table(plain, 50), rotary_table(sharper, 50))


@pytest.mark.parametrize("parameters", [DYNAMIC, LONGROPE], ids=BY_LENGTH)
def test_kinds_that_switch_by_length_are_fixed_by_the_servers(parameters: Parameters) -> None:
    original = 64 if parameters is LONGROPE else 256
    short, same = rotary_table(rope(parameters), 10), rotary_table(rope(parameters), original)
    long = rotary_table(rope(parameters), original + 1)
    assert torch.equal(short, same[:10])
    assert not torch.equal(short, long[:10])


@pytest.mark.parametrize("parameters", [LINEAR, YARN, LLAMA3], ids=lambda p: p["rope_type"])
def test_other_kinds_do_not_depend_on_the_servers_length(parameters: Parameters) -> None:
    short, long = rotary_table(rope(parameters), 10), rotary_table(rope(parameters), 1000)
    assert torch.equal(short, long[:10])


# -- whole models ---------------------------------------------------------------------------------


def scaled_llama(folder: Path, parameters: Parameters, max_positions: int) -> Path:
    return make(
        "llama",
        folder,
        max_position_embeddings=max_positions,
        rope_parameters={"rope_theta": 10000.0} | parameters,
    )


CASES = [
    (LINEAR, 160),
    (DYNAMIC, 160),  # beyond the original length 100: scaled for 160, as transformers for 160
    (DYNAMIC, 90),
    (YARN, 160),
    (LLAMA3, 160),
    (LONGROPE, 160),
    (LONGROPE, 64),
]


@pytest.mark.parametrize(
    ("parameters", "length"), CASES, ids=lambda v: v["rope_type"] if isinstance(v, dict) else str(v)
)
def test_logits_are_those_of_transformers_for_the_servers_length(
    tmp_path: Path, parameters: Parameters, length: int
) -> None:
    positions = 100 if parameters is DYNAMIC else 256
    theta = {"rope_theta": 10000.0}
    folder = make(
        "llama", tmp_path, max_position_embeddings=positions, rope_parameters=theta | parameters
    )
    tokens = random_tokens(length)
    expected = logits_of(transformers_model(folder), tokens)
    ours = in_chunks(PagedModel(folder, max_model_len=length), tokens, 33, length - 40)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("parameters", "length"),
    [(LINEAR, 256), (DYNAMIC, 256), (YARN, 256), (LLAMA3, 256), (LONGROPE, 64)],
    ids=lambda v: v["rope_type"] if isinstance(v, dict) else str(v),
)
@pytest.mark.parametrize("mode", ["separated", "unified"])
def test_servers_give_the_tokens_of_transformers(
    tmp_path: Path, parameters: Parameters, length: int, mode: str
) -> None:
    theta = {"rope_theta": 10000.0}
    folder = make(
        "llama", tmp_path, max_position_embeddings=256, rope_parameters=theta | parameters
    )
    prompts = [random_tokens(n, seed=n) for n in (3, 30, length - 40 if length > 64 else 24)]
    model = transformers_model(folder)
    expected = [greedy(model, prompt, 34, f"{len(prompt)}") for prompt in prompts]
    shape = Shape(mode, chunk=64, threads=1, max_model_len=length, num_pages=64)
    server = make_server(Weights(folder), shape)
    clients = server.run([request(a.name, a.prompt_token_ids, max_tokens=34) for a in expected])
    for answer, client in zip(expected, clients, strict=True):
        assert len(client.tokens) == 34
        assert_equals(answer, client.tokens)


def test_phi3_with_longrope_over_part_of_each_head_is_carried(tmp_path: Path) -> None:
    parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,  # of head_dim 96: 36 pairs
        "short_factor": [1.0 + i / 50 for i in range(36)],
        "long_factor": [1.0 + i / 3 for i in range(36)],
    }
    lengths = {"max_position_embeddings": 512, "original_max_position_embeddings": 64}
    folder = make("phi3", tmp_path, rope_parameters=parameters, **lengths)
    assert read_spec(folder).rope.max_length == 512
    model = transformers_model(folder)
    for length in (60, 130):
        tokens = random_tokens(length)
        ours = in_chunks(PagedModel(folder, max_model_len=length), tokens, 50)
        # its scores are large: transformers in float32 is 2e-4 away from itself in float64
        torch.testing.assert_close(ours, logits_of(model, tokens), rtol=1e-3, atol=1e-3)
