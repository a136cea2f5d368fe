"""Choosing tokens on the CPU, over large vocabularies: by the definition, each row by itself."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from pdrt import _C
from pdrt.kernels.cpu_draw import ROW, draw
from pdrt.runner.logits import Context
from pdrt.runner.sampler import sample
from pdrt.sampling_params import SlotParams
from tests.philox import uniform
from tests.plain_sampling import plain_sample

pytestmark = pytest.mark.usefixtures("isa")

PLAIN = SlotParams(temperature=1.0, top_p=1.0, top_k=0, seed=0, ignore_eos=True)
HOW: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.2},
    {"top_k": 1},
    {"top_k": 20},
    {"top_k": 900, "temperature": 3.0},  # more than there are blocks with a maximum of their own
    {"top_p": 0.3},
    {"top_p": 0.999, "temperature": 3.0},
    {"top_k": 50, "top_p": 0.8},
    {"min_p": 0.1},
    {"min_p": 0.01, "top_k": 40, "top_p": 0.95},
    {"min_p": 1.0},
    {"logit_bias": {3: 4.0, 5: -100.0}, "top_p": 0.7},
    {"logit_bias": {0: 50.0}, "temperature": 0.0},
]


def drawn_logits(num_rows: int, vocab_size: int, seed: int = 0) -> NDArray[np.float32]:
    """With many ties, and with tokens that are banned."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (num_rows, vocab_size)).astype(np.float32)
    logits[:, 9::17] = logits[:, 9::17].round()
    logits[:, 8::31] = -np.inf
    return logits


def greedy(num_rows: int) -> NDArray[Any]:
    return np.zeros(num_rows, ROW)


@pytest.mark.parametrize("vocab_size", [8, 64, 65, 511, 3000])
def test_any_parameters_choose_what_the_definition_says(vocab_size: int) -> None:
    logits = drawn_logits(3 * len(HOW), vocab_size)
    contexts = [
        Context(msgspec.structs.replace(PLAIN, **how, seed=2**33 + 5 * i), position=i + j)
        for i in range(3)
        for j, how in enumerate(HOW)
    ]
    for row, context, got in zip(logits, contexts, sample(logits, contexts), strict=True):
        params = context.params
        seed, position = np.array([params.seed], np.uint64), np.array([context.position], np.uint32)
        random = float(uniform(seed, position)[0])
        expected = plain_sample(row.tolist(), params, [], [], [], random)
        assert got.token == expected.token or expected.margin < 1e-6, (params, expected)
        exact = row[got.token] - np.log(np.exp(row.astype(np.float64)).sum())
        assert got.logprob == pytest.approx(exact, abs=2e-6)


def test_the_lowest_id_of_the_largest_is_greedy_wherever_it_lies() -> None:
    logits = drawn_logits(300, 300)
    for row in range(300):
        logits[row, row] = logits[row, (row + 1) % 300] = logits[row].max() + 1
    tokens = draw(logits, greedy(300))["token"]
    assert tokens.tolist() == [*range(299), 0]


@pytest.mark.parametrize("place", [0, 63, 64, 299])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_all_numbers_names_the_worst(bad: float, place: int) -> None:
    logits = drawn_logits(3, 300)
    logits[1, place] = bad
    logits[1, min(place + 5, 299)] = bad
    drawn = draw(logits, greedy(3))
    assert drawn["token"][1] == place
    assert np.isnan(drawn["logprob"]).tolist() == [False, True, False]
    assert np.isnan(drawn["log_total"]).tolist() == [False, True, False]


def test_a_row_without_any_token_is_not_all_numbers() -> None:
    drawn = draw(np.full((1, 70), -np.inf, np.float32), greedy(1))
    assert drawn["token"][0] == 0 and np.isnan(drawn["logprob"][0])


@pytest.mark.usefixtures("one_thread_after")
def test_a_row_has_the_same_bits_alone_in_any_batch_and_on_any_thread() -> None:
    logits = drawn_logits(40, 5000)
    rows = np.array([(0, i, 0.9, i % 3, -4.0, 50 * (i % 2), i) for i in range(40)], ROW)
    together = draw(logits, rows)
    for i in range(40):
        assert draw(logits[i : i + 1], rows[i : i + 1]) == together[i : i + 1]
    _C.set_num_threads(3)
    assert (draw(logits, rows) == together).all()
    assert (draw(logits[::-1].copy(), rows[::-1].copy()) == together[::-1]).all()


def test_no_rows_are_no_tokens() -> None:
    assert len(draw(np.empty((0, 50), np.float32), greedy(0))) == 0


def test_arguments_that_do_not_fit_are_named() -> None:
    logits = drawn_logits(2, 50)
    with pytest.raises(ValueError, match=r"logits are float64 \(2, 50\) .*, expected a contig"):
        draw(logits.astype(np.float64), greedy(2))
    with pytest.raises(ValueError, match=r"logits are float32 \(50, 2\) with strides \(4, 200\)"):
        draw(logits.T, greedy(50))
    with pytest.raises(ValueError, match=r"logits have shape \(2, 0\); there is no token"):
        draw(logits[:, :0].copy(), greedy(2))
    with pytest.raises(ValueError, match=r"rows are .* \(3,\) .*, expected 2 of ROW"):
        draw(logits, greedy(3))
    with pytest.raises(ValueError, match=r"rows are int32"):
        draw(logits, np.zeros(2, np.int32))
