"""The real runner with two steps in flight, on a device that computes as late as may be.

tests/deferred.py is the device. Arrivals and turns come in an order of chance; requests end by
length, by a token, or as their readers leave; in small pools they are preempted. What each gets is
what one step in flight gives it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from pdrt.request import Request, SamplingParams, TokenLogprobs, sequences
from pdrt.updates import Update
from tests.in_process import Client, InProcessServer
from tests.model_server import Shape, Weights, make_server

KINDS = [
    SamplingParams(temperature=0.0, ignore_eos=True),
    SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=7, ignore_eos=True, logprobs=3),
    SamplingParams(temperature=1.2, min_p=0.02, seed=3, ignore_eos=True, n=3),
    SamplingParams(temperature=0.0, ignore_eos=True, prompt_logprobs=2, logprobs=0),
    SamplingParams(temperature=0.8, seed=5, frequency_penalty=0.7, ignore_eos=True),
]
NUM_TOKENS = 20
SMALLEST = {"num_pages": 6, "max_model_len": 96}


def requests_of_every_kind() -> list[Request]:
    asked = []
    for i, params in enumerate([*KINDS, *KINDS[:3]]):
        prompt = tuple((7 * i + j * j) % 250 for j in range(3 + 9 * i))
        first = Request(f"r{i}", None, prompt, params, NUM_TOKENS, seed=params.seed or i)
        asked += sequences(first)
    return asked


class Reader(Client):
    """Goes when it has seen so many tokens, as the front end ends a request at a stop string."""

    def __init__(self, request: Request, server: InProcessServer, most: int) -> None:
        super().__init__(request)
        self._server, self._most = server, most

    def __call__(self, update: Update) -> None:
        super().__call__(update)
        if self.last is None and self._most <= len(self.tokens):
            self._most = NUM_TOKENS
            self._server.router.abort(self.request.request_id, self)


def run(
    server: InProcessServer, asked: Sequence[Request], chance: random.Random, readers: bool
) -> list[Reader]:
    """Arrivals and turns in an order of chance; one reader in four leaves early."""
    leaves = [readers and chance.random() < 0.25 for _ in asked]
    clients = [
        Reader(each, server, chance.randint(1, 15) if early else NUM_TOKENS)
        for each, early in zip(asked, leaves, strict=True)
    ]
    arriving = deque(clients)
    while arriving or not server.router.is_idle:
        if arriving and chance.random() < 0.3:
            client = arriving.popleft()
            server.router.submit(client.request, client)
        worker = chance.choice(server.workers)
        server.hear_all(worker)
        server.turn(worker)
        server.deliver(worker)
        server.ledger.sweep()
    while any(worker.worker.has_work for worker in server.workers):
        server.round()
    server.check_empty()
    return clients


def ended_by(request: Request, token: int) -> Request:
    params = structs.replace(request.params, stop_token_ids=(token,))
    return replace(request, params=params)


def assert_close(scores: Sequence[TokenLogprobs], expected: Sequence[TokenLogprobs]) -> None:
    """The same tokens, with the same log-probabilities but for rounding."""
    assert [list(each) for each in scores] == [list(each) for each in expected]
    values = [score.logprob for each in scores for score in each.values()]
    others = [score.logprob for each in expected for score in each.values()]
    assert values == pytest.approx(others, abs=1e-4)


@pytest.fixture(scope="module")
def one_by_one(tiny_llama: Path) -> tuple[Weights, list[Request], list[Client]]:
    """Requests, some of which end at a token of theirs, and what one step in flight gives them."""
    weights, asked = Weights(tiny_llama), requests_of_every_kind()
    free = make_server(weights, Shape(threads=1)).run(asked)
    for i in range(0, len(asked), 3):
        asked[i] = ended_by(asked[i], free[i].tokens[5 + i])
    return weights, asked, make_server(weights, Shape(threads=1)).run(asked)


@pytest.mark.parametrize("readers", [False, True], ids=["all-stay", "some-leave"])
@pytest.mark.parametrize(
    "shape",
    [
        Shape("separated", chunk=16),
        Shape("unified", chunk=48),
        Shape("2P2D", page_size=32),
        Shape("separated", max_num_seqs=4, **SMALLEST),
        Shape("unified", max_num_seqs=4, **SMALLEST),
    ],
    ids=lambda shape: f"{shape.mode}-{shape.num_pages}",
)
def test_tokens_and_scores_are_those_of_one_step_in_flight(
    one_by_one: tuple[Weights, list[Request], list[Client]], shape: Shape, readers: bool
) -> None:
    weights, asked, expected = one_by_one
    server = make_server(weights, replace(shape, deferred=True, threads=1))
    clients = run(server, asked, random.Random(shape.mode), readers)
    for client, other in zip(clients, expected, strict=True):
        assert client.last is not None and other.last is not None
        if client.last.finish_reason != "abort":
            assert len(client.tokens) == len(other.tokens)
        count = len(client.tokens)
        assert client.tokens == other.tokens[:count]
        assert client.logprobs == pytest.approx(other.logprobs[:count], abs=1e-4)
        assert_close(client.scores, other.scores[:count])
        assert_close(client.prompt_scores, other.prompt_scores if count else [])
    ends = [client.last.finish_reason for client in clients if client.last]
    assert {"stop", "length", *(["abort"] if readers else [])} == set(ends)
    assert (server.ledger.counters().preempted > 0) == (shape.num_pages < 100)


@pytest.mark.parametrize("num_tokens", [1, 17, 33])
def test_a_prompt_whose_last_chunk_is_one_token_is_scored(
    one_by_one: tuple[Weights, list[Request], list[Client]], num_tokens: int
) -> None:
    """No token of the prompt follows it, so that scoring waits for nothing before the draw."""
    scored = SamplingParams(temperature=0.0, ignore_eos=True, prompt_logprobs=2, logprobs=0)
    prompt = tuple(7 * j % 250 for j in range(num_tokens))
    asked = Request("scored", None, prompt, scored, NUM_TOKENS, seed=0)
    (expected,) = make_server(one_by_one[0], Shape(threads=1)).run([asked])
    shape = Shape(chunk=16, deferred=True, threads=1)
    (client,) = make_server(one_by_one[0], shape).run([asked])
    assert (client.tokens, client.logprobs) == (expected.tokens, expected.logprobs)
    assert client.prompt_scores == expected.prompt_scores
    assert len(client.prompt_scores) == num_tokens - 1
