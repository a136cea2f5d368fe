"""What configs say of their rotary embedding: both spellings, every kind, and what is refused."""

from __future__ import annotations

import pytest
from transformers import Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pdrt.errors import ModelError
from pdrt.model.hf_config import HFConfig
from pdrt.model.rope import Rope, rope_of
from tests.rope_cases import DYNAMIC, LINEAR, LLAMA3, LONGROPE, YARN, Parameters

LLAMA: Parameters = {"max_position_embeddings": 4096, "rope_theta": 500.0}


def read(**values: object) -> Rope:
    return rope_of(HFConfig(LLAMA | values, "config.json"), 16)


@pytest.mark.parametrize(
    "parameters", [LINEAR, DYNAMIC, YARN, LLAMA3, LONGROPE], ids=lambda p: p["rope_type"]
)
def test_both_spellings_say_the_same(parameters: Parameters) -> None:
    new = read(rope_theta=None, rope_parameters=parameters | {"rope_theta": 500.0})
    old = read(rope_scaling=parameters)
    older = read(
        rope_scaling={"type" if key == "rope_type" else key: parameters[key] for key in parameters}
    )
    assert new == old == older
    assert new.theta == 500.0 and new.scaling is not None


@pytest.mark.parametrize("empty", [{}, {"rope_scaling": None}, {"rope_parameters": {}}])
def test_a_config_without_scaling_has_none(empty: Parameters) -> None:
    assert read(**empty) == Rope(16, 500.0, None, 4096)


def test_the_first_names_of_longrope_are_known() -> None:
    expected = read(rope_scaling=LONGROPE)
    for name in ("su", "yarn"):
        assert read(rope_scaling=LONGROPE | {"rope_type": name}) == expected


def test_phi3s_original_length_stands_outside_of_the_scaling() -> None:
    inside = {k: v for k, v in LONGROPE.items() if k != "original_max_position_embeddings"}
    assert read(rope_scaling=inside, original_max_position_embeddings=64) == read(
        rope_scaling=LONGROPE
    )
    # as transformers has it
    lengths = {"max_position_embeddings": 4096, "original_max_position_embeddings": 64}
    config = Phi3Config(hidden_size=64, num_attention_heads=4, rope_parameters=LONGROPE, **lengths)
    assert rope_of(HFConfig(config.to_dict(), "c"), 16) == read(
        rope_scaling=LONGROPE, rope_theta=10000.0
    )


@pytest.mark.parametrize(
    ("parameters", "max_length"),
    [
        (LINEAR, 4 * 4096),  # as vicuna-16k: 4096 in its config, factor 4
        (DYNAMIC, 3 * 4096),
        (YARN | {"original_max_position_embeddings": 4096}, 4 * 4096),  # as Qwen2.5's card
        (
            YARN | {"original_max_position_embeddings": 1024},
            4096,
        ),  # or the new length
        (LLAMA3, 4096),
        (LONGROPE, 4096),
    ],
    ids=str,
)
def test_scaling_makes_the_longest_length_known(parameters: Parameters, max_length: int) -> None:
    assert read(rope_scaling=parameters).max_length == max_length


def without(parameters: Parameters, key: str) -> Parameters:
    return {k: v for k, v in parameters.items() if k != key}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_type": "mrope"}, "scaling 'mrope' is not supported; known are default, linear"),
        (LINEAR | {"factor": 0.5}, "factor is 0.5; expected a number from 1 on"),
        (LINEAR | {"factor": float("inf")}, "factor is inf; expected a number"),
        (without(LINEAR, "factor"), "no 'factor'"),
        (YARN | {"beta_slow": 0}, "beta_slow is 0; expected a positive number"),
        (YARN | {"truncate": "no"}, "truncate is 'no'; expected true or false"),
        (without(LLAMA3, "original_max_position_embeddings"), "no 'original_max_position_emb"),
        (LLAMA3 | {"high_freq_factor": 1.0}, "high_freq_factor is 1.0; expected more than"),
        (LONGROPE | {"long_factor": [1.0] * 7}, "long_factor is .*; expected 8 factors"),
        (LONGROPE | {"short_factor": [1.0] * 9}, "short_factor is .*; expected 8 factors"),
        (LONGROPE | {"short_factor": None}, "no 'short_factor'; expected a list of positive"),
        (LONGROPE | {"long_factor": [0.0] * 8}, "expected a list of positive numbers"),
        ({"full_attention": LINEAR}, "expected one set of rotary parameters for all layers"),
        ({"rope_theta": 1.0}, "rope_theta 1.0 must be above 1"),
        ({"partial_rotary_factor": 0.2}, "rotary dimension 3 must be even"),
        (DYNAMIC | {"partial_rotary_factor": 0.125}, "rotary dimension 2 is too small for dynamic"),
    ],
)
def test_parameters_that_make_no_sense_are_named(parameters: Parameters, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(rope_parameters=parameters)


def test_every_kind_of_transformers_is_carried_or_refused_by_name() -> None:
    refused: list[str] = []
    for kind in ROPE_INIT_FUNCTIONS:
        try:
            read(rope_parameters=LONGROPE | LLAMA3 | {"rope_type": kind})
        except ModelError as error:
            assert f"scaling {kind!r} is not supported" in str(error)
            refused.append(kind)
    assert refused == ["proportional"]
