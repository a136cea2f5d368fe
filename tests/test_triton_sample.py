"""Sampling in Triton: the CPU's tokens, whatever is asked for and whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from pdrt.kernels.sample import MAX_VOCAB, sample
from pdrt.kernels.sample_threshold import NEAR
from pdrt.runner.scores import score
from tests.kernel_cases import same_bits
from tests.philox import uniform
from tests.sample_cases import (
    Floats,
    check_as_cpu,
    context,
    edits_of,
    params_of,
    params_with,
    random_params,
    run,
    with_each,
)
from tests.triton_cases import DEVICE

# Infinite distances have the weight 0, and logits that are no numbers get NaN; numpy, which
# interprets here, also warns.
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning"),
]

EOS = (3, 7)


def normal(rows: int, vocab_size: int, seed: int = 0, spread: float = 3.0) -> Floats:
    random = np.random.default_rng(seed)
    return random.normal(0, spread, (rows, vocab_size)).astype(np.float32)


@triton.jit
def _rand_kernel(seeds, positions, out):
    row = tl.program_id(0)
    tl.store(out + row, tl.rand(tl.load(seeds + row), tl.load(positions + row)))


def test_random_numbers_are_those_of_the_cpu() -> None:
    random = np.random.default_rng(0)
    seeds = np.append(random.integers(0, 2**63, 60), [0, 1, 2**32, 2**63 - 1])
    positions = np.append(random.integers(0, 2**31, 60), [0, 1, 2**31 - 1, 5]).astype(np.int32)
    out = torch.empty(64, device=DEVICE)
    _rand_kernel[(64,)](
        torch.from_numpy(seeds).to(DEVICE), torch.from_numpy(positions).to(DEVICE), out
    )
    expected = uniform(seeds.astype(np.uint64), positions.astype(np.uint32))
    np.testing.assert_array_equal(out.cpu().numpy(), expected)


@pytest.mark.parametrize("seed", range(2))
def test_any_parameters_give_the_tokens_of_the_cpu(seed: int) -> None:
    random, vocab_size = np.random.default_rng(seed), 24
    contexts = [
        context(
            random_params(random, vocab_size),
            random.integers(0, vocab_size, random.integers(1, 12)).tolist(),
            random.integers(0, 8, random.integers(12)).tolist(),
        )
        for _ in range(20)
    ]
    check_as_cpu(normal(20, vocab_size, seed, spread=2.0), contexts, EOS)


FILTERS: list[dict[str, object]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.95},
    {"top_k": 1},
    {"top_k": 700},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"min_p": 0.1, "temperature": 1.7},
    {"min_p": 0.02, "top_k": 40, "top_p": 0.8},
    {"temperature": 60.0, "top_p": 0.9},
]


@pytest.mark.parametrize("vocab_size", [1000, 1024, 3001])
def test_filters_leave_the_tokens_of_the_cpu(vocab_size: int) -> None:
    check_as_cpu(normal(len(FILTERS), vocab_size), with_each(FILTERS))


def test_of_equal_logits_the_lowest_ids_stay() -> None:
    """Few different values, so that every cut goes through equals, over several tiles."""
    check_as_cpu(normal(len(FILTERS), 2500).round(), with_each(FILTERS))
    check_as_cpu(np.zeros((len(FILTERS), 2500), np.float32), with_each(FILTERS))


def test_more_tokens_in_question_than_are_gathered_are_searched_where_they_lie() -> None:
    filters: list[dict[str, object]] = [{"top_p": 0.98}, {"top_k": NEAR + 500, "top_p": 0.99}]
    check_as_cpu(normal(2, NEAR + 1500, spread=0.3), with_each(filters))
    check_as_cpu(np.ones((2, NEAR + 1500), np.float32), with_each(filters))


@pytest.mark.parametrize("vocab_size", [51200, MAX_VOCAB])
def test_large_vocabularies(vocab_size: int) -> None:
    filters: list[dict[str, object]] = [
        {"temperature": 0.0},
        {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    ]
    contexts = with_each(filters)
    contexts[1] = context(params_with(seed=3, top_k=20, repetition_penalty=1.2), [5, 9])
    check_as_cpu(normal(2, vocab_size), contexts)


def test_a_token_s_penalties_count_each_time_once() -> None:
    """A history longer than a program's block, in which tokens come back."""
    history = np.random.default_rng(1).integers(0, 300, 2000).tolist()
    penalties: list[dict[str, object]] = [
        {"frequency_penalty": 0.01, "presence_penalty": 0.5, "temperature": 0.0},
        {"repetition_penalty": 1.5, "temperature": 0.0},
        {"repetition_penalty": 0.5, "frequency_penalty": -0.3, "logit_bias": {7: 50.0, 8: -2.0}},
    ]
    contexts = [context(params_with(**p), history[:700], history[700:]) for p in penalties]
    check_as_cpu(normal(3, 400), contexts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_16_bits_are_those_numbers_in_float32(dtype: torch.dtype) -> None:
    logits = torch.from_numpy(normal(4, 1500)).to(dtype)
    contexts = with_each([*FILTERS[:3], {"repetition_penalty": 1.3, "logit_bias": {4: 2.0}}])
    narrow, wide = run(logits, contexts, num_top=3), run(logits.float(), contexts, num_top=3)
    assert all(same_bits(a, b) for a, b in zip(narrow, wide, strict=True))


def test_a_row_has_the_same_token_and_bits_whatever_else_is_in_the_batch() -> None:
    values = [*FILTERS[:3], FILTERS[5], {"frequency_penalty": 1.0, "logit_bias": {5: 4.0}}]
    logits, contexts = normal(len(values), 1500), with_each(values)
    together = run(logits, contexts)
    order = np.random.default_rng(2).permutation(len(values))
    shuffled = run(logits[order], [contexts[i] for i in order])
    for i, own in enumerate(contexts):
        alone = run(logits[i : i + 1], [own])
        place = int(np.flatnonzero(order == i)[0])
        for one, all_, other in zip(alone[:2], together[:2], shuffled[:2], strict=True):
            assert same_bits(one, all_[i : i + 1])
            assert same_bits(one, other[place : place + 1])


def test_what_the_host_knows_of_a_batch_changes_no_token() -> None:
    logits = torch.from_numpy(normal(5, 1500)).to(DEVICE)
    cold, warm = params_of(with_each([{"temperature": 0.0}] * 5)), params_of(with_each([{}] * 5))
    for params, known in [(cold, {"greedy": True}), (warm, {"filtered": False})]:
        for a, b in zip(
            sample(logits, params)[:2], sample(logits, replace(params, **known))[:2], strict=True
        ):
            assert same_bits(a, b)


@pytest.mark.parametrize("ties", [False, True])
def test_the_likeliest_tokens_come_in_order(ties: bool) -> None:
    logits = normal(3, 2500).round() if ties else normal(3, 2500)
    result = run(logits, with_each([{}] * 3), num_top=20)
    scores = score(logits, result.tokens.cpu().numpy(), 0, 20)
    assert result.top_ids is not None and result.top_logprobs is not None
    np.testing.assert_array_equal(result.top_ids.cpu().numpy(), scores.top_ids)
    np.testing.assert_allclose(result.top_logprobs.cpu(), scores.top_logprobs, atol=1e-5)
    np.testing.assert_allclose(result.logprobs.cpu(), scores.logprobs, atol=1e-5)


def test_all_of_a_small_vocabulary_may_be_named() -> None:
    logits = normal(2, 17)
    top_ids = run(logits, with_each([{}] * 2), num_top=17).top_ids
    assert top_ids is not None
    np.testing.assert_array_equal(top_ids.cpu(), np.argsort(-logits, axis=1, kind="stable"))


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf] * 1500, [np.nan] * 1500])
def test_logits_that_are_no_numbers_give_nan_and_spoil_no_other_row(bad: Sequence[float]) -> None:
    logits, contexts = normal(4, 1500), with_each([{"temperature": 0.0}, *FILTERS[1:3], {}])
    clean = run(logits, contexts)
    for row in (0, 2):
        logits[row, : len(bad)] = bad
    result = run(logits, contexts)
    assert result.logprobs[[0, 2]].isnan().all()
    assert ((result.tokens >= 0) & (result.tokens < 1500)).all()
    assert result.tokens[[1, 3]].tolist() == clean.tokens[[1, 3]].tolist()
    assert same_bits(result.logprobs[[1, 3]], clean.logprobs[[1, 3]])


def test_banned_tokens_are_not_drawn_and_what_lies_around_is_not_read() -> None:
    memory = torch.full((3, 1500), float("nan"), device=DEVICE)
    memory[1] = torch.from_numpy(normal(1, 1500)[0])
    contexts = [context(params_with(temperature=5.0, bad_words=tuple((t,) for t in range(1498))))]
    result = sample(memory[1:2], params_of(contexts), edits_of(contexts))
    assert result.tokens.item() in (1498, 1499)
    assert result.logprobs.isfinite().all()


def test_draws_follow_the_probabilities() -> None:
    count = 100
    logits = np.tile(np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32)), (count, 1))
    tokens = run(logits, with_each([{}] * count)).tokens
    shares = torch.bincount(tokens, minlength=4) / count
    expected = torch.tensor([0.5, 0.3, 0.15, 0.05], device=DEVICE)
    assert ((shares - expected).abs() < 4 * (expected / count).sqrt()).all()


def test_no_rows_are_no_launch() -> None:
    result = run(np.zeros((0, 100), np.float32), [], num_top=2)
    assert result.tokens.shape == (0,)
    assert result.top_ids is not None and result.top_ids.shape == (0, 2)


def test_arguments_that_do_not_fit_are_named() -> None:
    logits, params = torch.zeros(2, 9, device=DEVICE), params_of(with_each([{}, {}]))
    with pytest.raises(ValueError, match=r"temperature has shape \(2,\), expected \(3,\)"):
        sample(torch.zeros(3, 9, device=DEVICE), params)
    with pytest.raises(ValueError, match=r"top_p is torch.float32, expected torch.float64"):
        sample(logits, replace(params, top_p=params.top_p.float()))
    with pytest.raises(ValueError, match=r"num_top=10; give 0 to the 9 tokens"):
        sample(logits, params, num_top=10)
    with pytest.raises(ValueError, match=r"at most 65535 rows of 262144"):
        sample(torch.zeros(1, MAX_VOCAB + 1, device=DEVICE), params)
    edits = edits_of(with_each([{"logit_bias": {1: 2.0}}, {}]))
    assert edits is not None
    with pytest.raises(ValueError, match=r"bias_values is torch.float64, expected torch.float32"):
        sample(logits, params, replace(edits, bias_values=edits.bias_values.double()))
