"""Every family in every variant that its configs know, against transformers; and what is refused.

Chunks, page sizes and bfloat16 of each family are in test_model.py; rope scaling in test_rotary.py.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, StableLmConfig

from pdrt.errors import ModelError
from pdrt.model.checkpoint import locate, read_spec
from pdrt.model.families import FAMILIES, spec_of
from pdrt.model.hf_config import HFConfig
from pdrt.model.rotary import rotary_frequencies
from pdrt.model.spec import tensors
from tests import checkpoints
from tests.checkpoints import (
    greedy,
    logits_of,
    make,
    random_tokens,
    save_random,
    transformers_model,
)
from tests.model_server import Shape, Weights, make_server, request
from tests.oracle import Answer, assert_equals
from tests.paged import PagedModel, in_chunks
from tests.published_configs import MISTRAL_7B, PUBLISHED, QWEN_2_5_7B, QWEN_3_0_6B

VARIANTS: list[tuple[str, dict[str, object]]] = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 32, "num_key_value_heads": 1}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    ("phi", {"num_key_value_heads": 1, "partial_rotary_factor": 0.5}),
    ("phi", {"hidden_size": 128, "partial_rotary_factor": 0.5}),  # as phi-1: head_dim 64
    ("mistral", {"sliding_window": None}),
    ("mistral", {"head_dim": None, "num_key_value_heads": 4, "tie_word_embeddings": True}),
    ("qwen2", {"use_sliding_window": False, "tie_word_embeddings": False}),
    ("qwen2", {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 17, "max_window_layers": 1}),
    ("qwen3", {"head_dim": 64, "num_key_value_heads": 4}),
    ("phi3", {"sliding_window": None, "tie_word_embeddings": True}),
    ("phi3", {"num_key_value_heads": 2, "rope_parameters": None}),
    ("gemma", {"attention_bias": True, "num_key_value_heads": 2}),
    ("gemma", {"head_dim": 96}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("gpt_neox", {"attention_bias": False}),
    ("gpt_neox", {"hidden_act": "gelu_new", "hidden_size": 160, "tie_word_embeddings": True}),
    ("gpt_neox", {"hidden_act": "gelu_fast"}),
    ("gpt_neox", {"rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 1.0}}),
]
PROMPTS = [[(7 * i + j * j) % 250 for j in range(n)] for i, n in enumerate((1, 17, 60, 130))]
SHAPES = [
    Shape("separated", page_size=16, chunk=48, threads=1),
    Shape("unified", page_size=32, chunk=16, threads=1),
    Shape("2P2D", page_size=16, chunk=256, threads=1, num_pages=16, max_model_len=192),
]


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=lambda value: str(value))
def test_each_variant_of_a_family_is_carried(
    tmp_path: Path, family: str, changes: dict[str, object]
) -> None:
    folder = make(family, tmp_path, **changes)
    tokens = random_tokens(60)
    expected = logits_of(transformers_model(folder), tokens)
    ours = in_chunks(PagedModel(folder), tokens, 33, 20)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module", params=[*checkpoints.FAMILIES])
def family(
    request: pytest.FixtureRequest, tiny: Callable[[str], Path]
) -> tuple[Weights, list[Answer]]:
    folder = tiny(request.param)
    model = transformers_model(folder)
    answers = [greedy(model, prompt, 40, f"{request.param}-{len(prompt)}") for prompt in PROMPTS]
    return Weights(folder), answers


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.mode}-{s.page_size}-{s.chunk}")
def test_every_family_gives_the_tokens_of_transformers_through_a_server(
    family: tuple[Weights, list[Answer]], shape: Shape
) -> None:
    weights, expected = family
    server = make_server(weights, shape)
    for _ in range(2):  # the second time with prefix hits
        clients = server.run([request(a.name, a.prompt_token_ids, max_tokens=40) for a in expected])
        for answer, client in zip(expected, clients, strict=True):
            assert len(client.tokens) == 40
            assert_equals(answer, client.tokens)
        server.check_empty()
    assert server.ledger.counters().prefix_hit_tokens > 0


def test_the_tests_know_every_family() -> None:
    assert {*FAMILIES} == {*checkpoints.FAMILIES}


@pytest.mark.parametrize("name", [*PUBLISHED])
def test_published_configs_describe_the_model_that_transformers_builds(name: str) -> None:
    assert_describes(PUBLISHED[name])


def assert_describes(config: dict[str, object]) -> None:
    spec = spec_of(HFConfig(config, "config.json"))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert sum(math.prod(shape) for shape in tensors(spec).values()) == model.num_parameters()
    theirs = model.config
    assert spec.rope.theta == theirs.rope_parameters["rope_theta"]
    rotated = theirs.rope_parameters.get("partial_rotary_factor", 1.0)
    assert spec.rope.dim == int(spec.head_dim * rotated)
    assert spec.tied_embeddings == theirs.tie_word_embeddings
    assert spec.windows == windows_of(theirs)


def windows_of(config: PretrainedConfig) -> tuple[int, ...]:
    """Of each layer, as transformers' models read them."""
    window = getattr(config, "sliding_window", None) or 0
    kinds = getattr(config, "layer_types", None)
    if kinds is None or config.model_type in ("mistral", "phi3"):
        return (window,) * config.num_hidden_layers
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


@pytest.mark.parametrize(
    ("name", "absent", "changes"),
    [
        ("Mistral-7B-v0.1", "sliding_window", {}),
        ("Mistral-7B-v0.1", "", {"layer_types": ["full_attention", "sliding_attention"] * 16}),
        ("Mistral-7B-v0.1", "", {"attention_bias": True, "mlp_bias": True}),
        (
            "Qwen2.5-7B-Instruct",
            "sliding_window",
            {"use_sliding_window": True, "max_window_layers": 3},
        ),
        ("Qwen2.5-7B-Instruct", "", {"attention_bias": True, "mlp_bias": True}),
        ("Phi-3-mini-4k-instruct", "", {"attention_bias": True, "mlp_bias": True}),
        ("pythia-70m", "", {"rope_theta": 5.0, "partial_rotary_factor": 1.0}),
    ],
)
def test_keys_that_are_odd_or_absent_mean_what_they_mean_in_transformers(
    name: str, absent: str, changes: dict[str, object]
) -> None:
    config = {key: value for key, value in PUBLISHED[name].items() if key != absent} | changes
    assert_describes(config)


def test_windows_are_those_of_each_layer() -> None:
    def windows(config: dict[str, object], **changes: object) -> tuple[int, ...]:
        return spec_of(HFConfig(config | {"num_hidden_layers": 4} | changes, "c")).windows

    assert windows(MISTRAL_7B) == (4096,) * 4
    assert windows(MISTRAL_7B, sliding_window=None) == (0,) * 4
    assert windows(QWEN_2_5_7B, max_window_layers=2) == (0,) * 4, "use_sliding_window is false"
    assert windows(QWEN_2_5_7B, use_sliding_window=True, sliding_window=None) == (0,) * 4
    enabled = {"use_sliding_window": True, "sliding_window": 8}
    assert windows(QWEN_2_5_7B, max_window_layers=2, **enabled) == (0, 0, 8, 8)
    assert windows(QWEN_3_0_6B, max_window_layers=0, **enabled) == (8,) * 4
    kinds = ["full_attention", "sliding_attention"] * 2
    assert windows(QWEN_3_0_6B, layer_types=kinds, **enabled) == (0, 8, 0, 8)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (QWEN_3_0_6B, {"layer_types": ["full_attention"]}, "expected a list of 28, one for each"),
        (
            QWEN_3_0_6B,
            {"layer_types": ["chunked_attention"] * 28},
            "expected a list of full_attention or sliding_attention",
        ),
        (QWEN_2_5_7B, {"use_sliding_window": 1}, "use_sliding_window is 1; expected true or false"),
        (QWEN_2_5_7B, {"max_window_layers": -1}, "max_window_layers is -1; expected 0 or"),
        (MISTRAL_7B, {"sliding_window": 0}, "sliding_window is 0; expected a positive integer"),
        (PUBLISHED["pythia-70m"], {"hidden_act": "relu"}, "hidden_act is 'relu'; expected 'gelu'"),
        (PUBLISHED["gemma-2b"], {"use_bidirectional_attention": True}, "bidirectional.* is True"),
        (PUBLISHED["phi-1"], {"qk_layernorm": True}, "qk_layernorm is True"),
    ],
)
def test_what_a_family_does_not_carry_is_named(
    config: dict[str, object], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        spec_of(HFConfig(config | changes, "config.json"))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("Gemma2ForCausalLM", "soft caps on attention scores and logits, and norms after"),
        ("gemma3_text", "norms after attention and MLP, and rotary parameters by layer"),
        ("MixtralForCausalLM", "it needs a mixture of experts"),
        ("gpt2", "it needs learned positions"),
        ("BertModel", "'BertModel' is not supported; known are LlamaForCausalLM, Mistral"),
    ],
)
def test_other_architectures_are_refused_with_what_they_need(
    architecture: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        spec_of(HFConfig({"architectures": [architecture]}, "config.json"))


def test_a_family_is_found_by_its_model_type_too(tiny: Callable[[str], Path]) -> None:
    for name, family in FAMILIES.items():
        config = json.loads((tiny(name) / "config.json").read_text())
        assert config["model_type"] in family.ARCHITECTURES
        del config["architectures"]
        assert spec_of(HFConfig(config, name)) == read_spec(tiny(name))


@pytest.mark.parametrize("name", [*FAMILIES])
def test_no_tensor_of_the_checkpoint_is_left_out(tiny: Callable[[str], Path], name: str) -> None:
    folder = tiny(name)
    model = transformers_model(folder)
    assert len(locate(folder, read_spec(folder))) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_qkv_bias": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5}],
    ids=["plain", "parallel"],
)
def test_the_family_in_the_guide_runs_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    guide = (Path(__file__).parent.parent / "docs" / "models.md").read_text()
    source = guide.split("```python\n")[1].split("```")[0]
    stablelm = types.ModuleType("stablelm")
    exec(source, vars(stablelm))
    monkeypatch.setitem(FAMILIES, "stablelm", stablelm)
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = StableLmConfig(**checkpoints.COMMON, **small, **heads, **changes)
    folder = save_random(config, tmp_path)
    tokens = random_tokens(60)
    expected = logits_of(transformers_model(folder), tokens)
    ours = in_chunks(PagedModel(folder), tokens, 33, 20)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


ODD: list[object] = [None, True, -1, 0, 1, 3, 1.5, 1e-9, float("nan"), 10**400, "x", [], [[]], {}]


@pytest.mark.parametrize("name", [*PUBLISHED])
def test_whatever_a_config_says_the_answer_is_a_spec_or_a_sentence(name: str) -> None:
    """Each key, and each of the rotary parameters, with each odd value in turn."""
    config = PUBLISHED[name]
    scaling = dict(config.get("rope_scaling") or {"rope_type": "linear", "factor": 2.0})
    changed = [config | {key: odd} for key in config for odd in ODD]
    changed += [config | {"rope_scaling": scaling | {k: odd}} for k in scaling for odd in ODD]
    changed += [config | {"rope_scaling": odd} for odd in ODD]
    num_refused = 0
    for values in changed:
        try:
            rotary_frequencies(spec_of(HFConfig(values, name)).rope, max_model_len=100_000)
        except ModelError:
            num_refused += 1
    assert 0 < num_refused < len(changed)
