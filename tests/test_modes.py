"""SmolLM2 in real processes: separated, unified and 2P2D give transformers' tokens.

One engine start for each mode; the rest of the matrix is in test_correctness.py, in one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import pdrt
from tests.oracle import answers, assert_equals

pytestmark = pytest.mark.timeout(900)

GREEDY = pdrt.SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True)
SAMPLED = pdrt.SamplingParams(
    temperature=0.8, top_p=0.9, top_k=40, seed=11, max_tokens=24, ignore_eos=True, logprobs=0
)
CHOSEN = [a for a in answers() if len(a.prompt_token_ids) <= 60][::2] + [
    next(a for a in answers() if len(a.prompt_token_ids) > 500)
]
MODES: dict[str, dict[str, object]] = {
    "separated": {},
    "unified": {"disaggregation_mode": "unified", "page_size": 32},
    "2P2D": {
        "num_prefill_workers": 2,
        "num_decode_workers": 2,
        "page_size": 128,
        "tpot_target_ms": 30,
    },
}


@dataclass
class Result:
    greedy: list[list[int]]
    sampled: list[int]
    logprobs: list[float]
    handoffs: int
    handoff_bytes: int


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return {}


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def run(settings: dict[str, object]) -> Result:
    prompts = [answer.prompt_token_ids for answer in CHOSEN]
    with pdrt.Engine(dtype="float32", max_model_len=2048, log_level="error", **settings) as engine:
        params = [GREEDY] * len(prompts) + [SAMPLED]
        outputs = engine.generate([*prompts, "Once upon a time"], params)
        stats = engine.metrics()
    last = outputs[-1].outputs[0]
    assert last.logprobs is not None
    return Result(
        [out.outputs[0].token_ids for out in outputs[:-1]],
        last.token_ids,
        [next(iter(each.values())).logprob for each in last.logprobs],
        stats.num_handoffs,
        stats.handoff_bytes,
    )


def test_every_mode_gives_the_tokens_of_transformers(mode: str, results: dict[str, Result]) -> None:
    result = results[mode] = run(MODES[mode])
    for answer, tokens in zip(CHOSEN, result.greedy, strict=True):
        assert len(tokens) == 64
        assert_equals(answer, tokens)
    assert result.handoffs == len(CHOSEN) + 1
    assert result.handoff_bytes == 0


def test_seeded_sampling_is_the_same_in_every_mode(results: dict[str, Result]) -> None:
    first = results["separated"]
    for other in (results["unified"], results["2P2D"]):
        assert other.sampled == first.sampled
        assert other.logprobs == pytest.approx(first.logprobs, abs=1e-3)
    assert all(logprob <= 0.0 for logprob in first.logprobs)
