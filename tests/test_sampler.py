"""The sampler's promises: the right distribution, and the same token whatever else is in a step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pdrt.runner.logits import Context
from pdrt.runner.sampler import sample as sample_in_context
from pdrt.runner.scores import score
from pdrt.sampling_params import SlotParams
from pdrt.sched.plan import Sampled
from tests.philox import philox, uniform

VOCAB_SIZE = 50


def sample(
    logits: NDArray[np.float32], params: Sequence[SlotParams], positions: Sequence[int]
) -> list[Sampled]:
    """With parameters that read no tokens."""
    return sample_in_context(logits, list(map(Context, params, positions)))


def params(
    temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, seed: int = 0
) -> SlotParams:
    return SlotParams(temperature, top_p, top_k, seed, ignore_eos=False)


def logits_of(probabilities: list[float]) -> NDArray[np.float32]:
    return np.log(np.array(probabilities, np.float32))


def random_logits(num_rows: int, seed: int = 1) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    return (3 * generator.standard_normal((num_rows, VOCAB_SIZE))).astype(np.float32)


def draws(logits: NDArray[np.float32], how: SlotParams, num_draws: int = 2000) -> list[int]:
    rows = np.tile(logits, (num_draws, 1))
    return [s.token for s in sample(rows, [how] * num_draws, range(num_draws))]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that Random123 publishes (kat_vectors, philox4x32 10)
        (
            [0, 0, 0, 0],
            [0, 0],
            [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        ),
        (
            [0xFFFFFFFF] * 4,
            [0xFFFFFFFF] * 2,
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        ),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_known_answers(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    got = philox(np.array([counter], np.uint32), np.array([key], np.uint32))
    assert got.tolist() == [expected]


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    numbers = uniform(np.full(20_000, 2**40 + 5, np.uint64), np.arange(20_000, dtype=np.uint32))
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert abs(counts - 1000).max() < 150  # 1000 +- 31 each; nearly five of those


def test_the_largest_random_word_stays_below_one() -> None:
    from tests.philox import SCALE

    assert np.float32(2**31 - 1) * SCALE < 1.0


def test_seeds_that_differ_in_the_high_half_give_other_numbers() -> None:
    first, second = uniform(np.array([7, 7 + 2**32], np.uint64), np.zeros(2, np.uint32))
    assert first != second


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = np.array([[0.0, 2.0, 2.0, 1.0]], np.float32)
    assert sample(logits, [params(temperature=0.0)], [5])[0].token == 1


def test_logprob_is_that_of_the_untempered_distribution() -> None:
    logits = logits_of([0.5, 0.25, 0.125, 0.125])[None]
    for how in (params(temperature=0.0), params(temperature=0.01, top_k=1, top_p=0.1)):
        chosen = sample(logits, [how], [0])[0]
        assert chosen.token == 0
        assert chosen.logprob == pytest.approx(np.log(0.5), abs=1e-6)


def test_draws_follow_the_tempered_distribution() -> None:
    probabilities = np.array([0.4, 0.3, 0.2, 0.1])
    tokens = draws(logits_of(list(probabilities)), params(temperature=2.0), 4000)
    tempered = probabilities**0.5 / (probabilities**0.5).sum()
    shares = np.bincount(tokens, minlength=4) / 4000
    np.testing.assert_allclose(shares, tempered, atol=0.03)  # a share's deviation is 0.008


def test_top_k_keeps_the_likeliest_and_the_lowest_ids_among_equals() -> None:
    logits = logits_of([0.1, 0.3, 0.2, 0.2, 0.2])
    assert set(draws(logits, params(top_k=2))) == {1, 2}
    assert set(draws(logits, params(top_k=3))) == {1, 2, 3}
    assert set(draws(logits, params(top_k=-1))) == {0, 1, 2, 3, 4}
    assert set(draws(logits, params(top_k=99))) == {0, 1, 2, 3, 4}


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    logits = logits_of([0.05, 0.5, 0.3, 0.15])
    assert set(draws(logits, params(top_p=0.4))) == {1}
    assert set(draws(logits, params(top_p=0.7))) == {1, 2}
    assert set(draws(logits, params(top_p=0.9))) == {1, 2, 3}
    assert set(draws(logits, params(top_p=0.99))) == {0, 1, 2, 3}


def test_top_p_is_of_what_top_k_has_left() -> None:
    # of 0.4 | 0.3 | 0.2 | 0.1, top_k 2 leaves 0.57 | 0.43, and the first alone reaches 0.5
    assert set(draws(logits_of([0.4, 0.3, 0.2, 0.1]), params(top_k=2, top_p=0.5))) == {0}


def test_top_p_agrees_with_sorting_everything() -> None:
    for row, top_p in zip(random_logits(40), np.linspace(0.05, 0.999, 40), strict=True):
        probabilities = np.exp(row.astype(np.float64)) / np.exp(row.astype(np.float64)).sum()
        order = np.argsort(-probabilities)
        count = int((np.cumsum(probabilities[order]) < top_p).sum()) + 1
        kept = set(order[:count].tolist())
        assert set(draws(row, params(top_p=float(top_p)), 300)) <= kept


def test_a_row_gets_the_same_token_whatever_else_is_in_the_step() -> None:
    logits = random_logits(9)
    how = [
        params(temperature=t, top_k=k, seed=s)
        for t in (0, 0.7, 1.5)
        for k, s in ((0, 3), (5, 2**63 - 1), (20, 11))
    ]
    positions = list(range(100, 109))
    together = sample(logits, how, positions)
    for i in range(9):
        assert (
            sample(logits[i : i + 1], how[i : i + 1], positions[i : i + 1]) == together[i : i + 1]
        )


def test_the_token_depends_on_seed_and_position() -> None:
    flat = np.zeros((200, VOCAB_SIZE), np.float32)
    by_position = [s.token for s in sample(flat, [params(seed=1)] * 200, range(200))]
    by_seed = [s.token for s in sample(flat, [params(seed=s) for s in range(200)], [0] * 200)]
    assert len(set(by_position)) > 40 and len(set(by_seed)) > 40
    assert by_position == [s.token for s in sample(flat, [params(seed=1)] * 200, range(200))]


def test_the_coldest_temperatures_are_greedy_and_the_hottest_even() -> None:
    row = random_logits(1)[0]
    assert set(draws(row, params(temperature=1e-30), 50)) == {int(row.argmax())}
    assert set(draws(row, params(temperature=1e-5), 50)) == {int(row.argmax())}
    assert len(set(draws(row, params(temperature=100.0)))) == VOCAB_SIZE


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_fail_their_row_alone(bad: float) -> None:
    logits = random_logits(2)
    logits[0, 3] = bad
    for temperature in (0.0, 1.0):
        how = [params(temperature=temperature, top_p=0.5)] * 2
        broken, good = sample(logits, how, [0, 1])
        assert np.isnan(broken.logprob) and 0 <= broken.token < VOCAB_SIZE
        assert good == sample(logits[1:], how[1:], [1])[0]


@pytest.mark.parametrize("num_nan", [1, 5, VOCAB_SIZE])
@pytest.mark.parametrize("num_top", [0, 1, 3])
def test_scores_of_logits_that_are_no_numbers_are_nan(num_nan: int, num_top: int) -> None:
    logits = random_logits(2)
    logits[0, :num_nan] = np.nan
    scores = score(logits, np.array([1, 1], np.int32), 0, num_top)
    assert np.isnan(scores.logprobs[0]) and np.isfinite(scores.logprobs[1])
    assert scores.top_ids.shape == scores.top_logprobs.shape == (2, num_top)
    assert np.isnan(scores.top_logprobs[0]).all()


@pytest.mark.parametrize("penalty", [1e-44, 1e-300])
def test_a_penalty_beyond_float32_warns_nobody(penalty: float) -> None:
    how = SlotParams(1.0, 1.0, 0, 0, ignore_eos=False, repetition_penalty=penalty)
    context = Context(how, 2, np.array([3, 4], np.int32), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (drawn,) = sample_in_context(random_logits(1), [context])
    assert 0 <= drawn.token < VOCAB_SIZE
