"""Schedulers, router and ledger under random arrivals, aborts, deaths and exhaustion."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdrt.router import MAX_FRUITLESS_DEATHS
from tests.simulation import Setup, Simulation

NUM_RUNS = 2_000  # over the four properties below


@st.composite
def setups(draw: st.DrawFn, unified: bool, faults: bool) -> Setup:
    """Small servers, down to the smallest legal pool: one request of full length."""
    page_size = draw(st.sampled_from([1, 2, 4, 8]))
    max_model_len = draw(st.integers(2, 24))
    smallest = -(-max_model_len // page_size)
    max_num_seqs = draw(st.integers(1, 4))
    return Setup(
        seed=draw(st.integers(0, 2**32)),
        unified=unified,
        num_prefill=draw(st.integers(1, 2)),
        num_decode=draw(st.integers(1, 3)),
        page_size=page_size,
        num_pages=smallest + draw(st.sampled_from([0, 0, 1, 2, 4, 12])),
        num_slots=draw(st.integers(1, 6)),
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        budget=draw(st.integers(max_num_seqs, 12)),
        sealed_bound=draw(st.integers(1, 3)),
        num_requests=draw(st.integers(1, 8)),
        shared_prefix=draw(st.sampled_from([0, 0, 3, 20])),
        deaths=draw(st.integers(0, MAX_FRUITLESS_DEATHS - 1)) if faults else 0,
        aborts=draw(st.integers(0, 4)) if faults else 0,
    )


@settings(max_examples=NUM_RUNS // 4, deadline=None)
@given(setups(unified=False, faults=False))
def test_every_request_gets_its_tokens_from_separated_workers(setup: Setup) -> None:
    Simulation(setup).check_run()


@settings(max_examples=NUM_RUNS // 4, deadline=None)
@given(setups(unified=False, faults=True))
def test_aborts_and_deaths_lose_nothing_of_the_others(setup: Setup) -> None:
    Simulation(setup).check_run()


@settings(max_examples=NUM_RUNS // 4, deadline=None)
@given(setups(unified=True, faults=False))
def test_every_request_gets_its_tokens_from_unified_workers(setup: Setup) -> None:
    Simulation(setup).check_run()


@settings(max_examples=NUM_RUNS // 4, deadline=None)
@given(setups(unified=True, faults=True))
def test_aborts_and_deaths_lose_nothing_in_unified_mode(setup: Setup) -> None:
    Simulation(setup).check_run()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=50_000, deadline=None)
@given(setups(unified=False, faults=True))
def test_many_more_runs_with_faults(setup: Setup) -> None:
    Simulation(setup).check_run(num_events=400)
