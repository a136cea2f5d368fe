"""The sampler against its definition, plainly written, over random parameters and histories."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pdrt._C import Ledger
from pdrt.runner.logits import Context
from pdrt.runner.sampler import sample
from pdrt.runner.scores import score
from pdrt.sampling_params import (
    MAX_BAD_WORD_TOKENS,
    MAX_LOGIT_BIAS,
    MAX_SEED,
    MAX_STOP_TOKEN_IDS,
    SlotParams,
)
from tests.philox import uniform
from tests.plain_sampling import plain_sample

VOCAB_SIZE = 24
EOS = [3, 7]
TOKENS = st.integers(0, VOCAB_SIZE - 1)
SOME_TOKENS = st.lists(TOKENS, max_size=12)
PENALTY = st.sampled_from([0.0, 0.0, 0.5, -1.0, 2.0])


@st.composite
def slot_params(draw: st.DrawFn) -> SlotParams:
    return SlotParams(
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 2.5])),
        top_p=draw(st.sampled_from([1.0, 0.9, 0.4])),
        top_k=draw(st.sampled_from([0, -1, 1, 5, VOCAB_SIZE + 3])),
        seed=draw(st.integers(0, 2**63 - 1)),
        ignore_eos=draw(st.booleans()),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3, 0.7, 5.0])),
        presence_penalty=draw(PENALTY),
        frequency_penalty=draw(PENALTY),
        logit_bias=draw(st.dictionaries(TOKENS, st.sampled_from([-100.0, -1.5, 3.0]), max_size=3)),
        min_tokens=draw(st.sampled_from([0, 0, 4, 30])),
        stop_token_ids=tuple(draw(st.lists(TOKENS, max_size=2))),
        bad_words=tuple(
            map(tuple, draw(st.lists(st.lists(TOKENS, min_size=1, max_size=3), max_size=3)))
        ),
    )


BAD_WORD_AT_THE_END = SlotParams(0.0, 1.0, 0, 0, False, bad_words=((1, 2, 5), (2, 6), (4,)))


@settings(max_examples=1500, deadline=None)
@example(BAD_WORD_AT_THE_END, [9], [8, 1, 2], 0)
@given(slot_params(), st.lists(TOKENS, min_size=1, max_size=12), SOME_TOKENS, st.integers(0, 999))
def test_the_sampler_does_what_its_definition_says(
    params: SlotParams, prompt: list[int], output: list[int], logits_seed: int
) -> None:
    logits = np.random.default_rng(logits_seed).normal(0, 2, VOCAB_SIZE).astype(np.float32)
    tokens = np.array(prompt + output, np.int32)
    context = Context(params, len(tokens), tokens, len(prompt))
    (got,) = sample(logits[None], [context], EOS)
    random = uniform(np.array([params.seed], np.uint64), np.array([len(tokens)], np.uint32))[0]
    expected = plain_sample(logits.tolist(), params, prompt, output, EOS, float(random))
    assert got.token == expected.token or expected.margin < 1e-5
    raw = np.exp(logits.astype(np.float64))
    assert got.logprob == pytest.approx(np.log(raw[got.token] / raw.sum()), abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 999), st.integers(0, VOCAB_SIZE), st.booleans())
def test_scores_are_the_log_softmax_and_its_largest(seed: int, num_top: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (5, VOCAB_SIZE)).astype(np.float32)
    if ties:
        logits = logits.round()
    tokens = random.integers(0, VOCAB_SIZE, 5, dtype=np.int32)
    scores = score(logits, tokens, 11, num_top)
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    assert scores.start == 11
    np.testing.assert_allclose(scores.logprobs, exact[range(5), tokens], atol=1e-5)
    for row, ids in enumerate(scores.top_ids.tolist()):
        order = sorted(range(VOCAB_SIZE), key=lambda token: (-logits[row, token], token))
        assert ids == order[:num_top]
        np.testing.assert_allclose(scores.top_logprobs[row], exact[row, ids], atol=1e-5)


def test_the_largest_parameters_fit_into_a_slot() -> None:
    largest = 2**31 - 1
    params = SlotParams(
        temperature=0.7,
        top_p=0.9,
        top_k=largest,
        seed=MAX_SEED,
        ignore_eos=True,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={largest - i: 0.1 for i in range(MAX_LOGIT_BIAS)},
        min_tokens=largest,
        stop_token_ids=(largest,) * MAX_STOP_TOKEN_IDS,
        bad_words=((largest,),) * MAX_BAD_WORD_TOKENS,
        logprobs=20,
        prompt_logprobs=20,
    )
    ledger = Ledger.create(num_pages=1, page_size=16, num_slots=1, max_model_len=16, sealed_bound=1)
    encoded = msgspec.msgpack.encode(params)
    assert ledger.claim(1, 1, np.array([1], np.int32), 1, encoded) is not None
