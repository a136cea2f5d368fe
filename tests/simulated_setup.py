"""The server and the load of one simulated run, drawn from its seed and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pdrt.records import MAX_FRUITLESS_DEATHS
from pdrt.request import Request, sequences
from pdrt.sampling_params import SamplingParams
from tests.toy_model import VOCABULARY, expected_output


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One small server, its load, and what goes wrong."""

    seed: int
    num_events: int  # chosen by the seed; then everybody gets fair turns until all has ended
    unified: bool
    num_prefill: int
    num_decode: int
    page_size: int
    num_pages: int
    num_slots: int
    max_model_len: int
    max_num_seqs: int
    budget: int
    sealed_bound: int
    num_requests: int
    shared_prefix: int
    aborts: int
    deaths: int
    hurry: float  # share of events that let a request arrive, as long as there are any
    deadliness: float  # share of a worker's events that kill it, as long as `deaths` are left
    busy: float  # share of ledger operations that find the lock held by another
    loss: float  # share of frames that are not sent, their queue being full
    depth: int  # steps that a worker may have in flight


def draw_setup(seed: int) -> Setup:
    """Small servers, down to the smallest legal pool: one request of full length."""
    draw = random.Random(f"setup {seed}")
    max_model_len, page_size = draw.randint(2, 24), draw.randint(1, 8)
    max_num_seqs, num_slots = draw.randint(1, 4), draw.randint(1, 6)
    faulty = draw.random() < 0.5
    return Setup(
        seed=seed,
        num_events=draw.choice([20, 80, 160, 320]),
        unified=draw.random() < 0.5,
        num_prefill=draw.randint(1, 2),
        num_decode=draw.randint(1, 3),
        page_size=page_size,
        num_pages=-(-max_model_len // page_size) + draw.choice([0, 0, 0, 1, 1, 2, 4, 12]),
        num_slots=num_slots,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        budget=draw.randint(max_num_seqs, 12),
        sealed_bound=min(draw.randint(1, 3), num_slots),
        num_requests=draw.randint(1, 8),
        shared_prefix=draw.choice([0, 0, 3, 20]),
        aborts=draw.randint(0, 4) if faulty else 0,
        deaths=draw.choice([0, 1, MAX_FRUITLESS_DEATHS - 1, 8]) if faulty else 0,
        hurry=draw.choice([0.05, 0.15, 0.5]),
        deadliness=draw.choice([0.04, 0.3]),
        busy=draw.choice([0.0, 0.0, 0.02, 0.2]),
        loss=draw.choice([0.0, 0.0, 0.02, 0.2]),
        depth=draw.choice([1, 2]),
    )


def draw_requests(setup: Setup) -> list[Request]:
    """The load. The first requests of a setup are the same, however many there are.

    A new kind of request is drawn in `_draw_request`, and `tests.simulation.check` says what must
    come of it.
    """
    draw = random.Random(f"requests {setup.seed}")
    requests: list[Request] = []
    while len(requests) < setup.num_requests:
        requests += sequences(_draw_request(setup, draw, f"r{len(requests)}", requests))
    return requests[: setup.num_requests]


def _draw_request(setup: Setup, draw: random.Random, name: str, earlier: list[Request]) -> Request:
    prompt = _draw_prompt(setup, draw, earlier)
    params = SamplingParams(
        n=draw.choice([1, 1, 1, 1, 1, 3]),
        ignore_eos=draw.random() < 0.8,
        prompt_logprobs=draw.choice([None, None, None, None, 0]),
        frequency_penalty=0.5 if draw.random() < 0.1 else 0.0,  # the toy model is deaf to it
        priority=draw.choice([0, 0, 0, 1, -1]),
    )
    max_tokens = draw.randint(1, setup.max_model_len - len(prompt))
    return Request(name, None, tuple(prompt), params, max_tokens, seed=len(earlier))


def _draw_prompt(setup: Setup, draw: random.Random, earlier: list[Request]) -> list[int]:
    """Some share a beginning, some go on from where an earlier request ends, as chats do."""
    length = min(draw.randint(1, setup.max_model_len - 1) for _ in range(2))
    known = [i % VOCABULARY for i in range(setup.shared_prefix)]
    if earlier and draw.random() < 0.2:
        before = draw.choice(earlier)
        known = [*before.prompt_token_ids, *expected_output(before)[0]]
    return (known + draw.choices(range(VOCABULARY), k=length))[:length]
