"""Greedy float32 tokens are transformers', whatever the server's shape; see "row invariance"."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from pdrt.request import SamplingParams
from pdrt.stream import RequestStream
from pdrt.tokenizer import Tokenizer
from tests.in_process import Client, InProcessServer
from tests.model_server import Shape, Weights, make_server, request
from tests.oracle import Answer, answers, assert_equals

pytestmark = pytest.mark.timeout(900)  # a busy machine takes minutes for the longest of these

SHORT = [i for i, answer in enumerate(answers()) if len(answer.prompt_token_ids) <= 140]
MEDIUM = [i for i, answer in enumerate(answers()) if 140 < len(answer.prompt_token_ids) <= 800]
LONG = [i for i, answer in enumerate(answers()) if len(answer.prompt_token_ids) > 800]
EVERY = list(range(len(answers())))


@pytest.fixture(scope="module")
def smollm2_weights(smollm2: Path) -> Weights:
    return Weights(smollm2)


def run(server: InProcessServer, expected: Sequence[Answer], num_tokens: int = 64) -> list[Client]:
    """Runs all prompts at once and compares each with its answer."""
    clients = server.run(
        [
            request(f"r{i}", a.prompt_token_ids, max_tokens=num_tokens)
            for i, a in enumerate(expected)
        ]
    )
    for answer, client in zip(expected, clients, strict=True):
        assert client.last is not None and client.last.finish_reason == "length", client.last
        assert len(client.tokens) == num_tokens
        assert_equals(answer, client.tokens)
    server.check_empty()
    return clients


def pick(indices: Sequence[int]) -> list[Answer]:
    return [answers()[i] for i in indices]


def test_the_fixture_is_what_the_issue_asks_for() -> None:
    lengths = [len(answer.prompt_token_ids) for answer in answers()]
    assert len(answers()) >= 30 and min(lengths) <= 5 and max(lengths) >= 1450
    assert all(len(answer.output_token_ids) == 64 for answer in answers())
    assert min(min(answer.margins) for answer in answers()) >= 1e-3


@pytest.mark.parametrize(
    ("shape", "indices"),
    [
        (Shape(), EVERY),
        (Shape("unified", page_size=32, chunk=96), SHORT[::2]),
        (Shape("2P2D", page_size=128, chunk=128, num_pages=128), SHORT[1::3] + MEDIUM[:2]),
        (Shape(page_size=16, chunk=16), SHORT[::3] + MEDIUM[:1]),
        (Shape("unified", page_size=128, chunk=2048, num_pages=128), LONG[:1] + SHORT[1::3]),
    ],
    ids=lambda value: (
        f"{value.mode}-{value.page_size}-{value.chunk}"
        if isinstance(value, Shape)
        else f"{len(value)}-prompts"
    ),
)
def test_smollm2_gives_the_tokens_of_transformers(
    smollm2_weights: Weights, shape: Shape, indices: list[int]
) -> None:
    server = make_server(smollm2_weights, shape)
    run(server, pick(indices))
    assert server.ledger.counters().preempted == 0


def test_prefix_hits_do_not_change_tokens(smollm2_weights: Weights) -> None:
    server = make_server(smollm2_weights, Shape())
    chosen = pick(SHORT[-2:] + MEDIUM[:1])
    first = run(server, chosen, num_tokens=8)
    second = run(server, chosen, num_tokens=48)
    assert [client.num_cached_tokens for client in first] == [0] * len(chosen)
    for answer, client in zip(chosen, second, strict=True):
        full_pages = (len(answer.prompt_token_ids) - 1) // 16
        assert client.num_cached_tokens == 16 * full_pages


def test_a_chats_next_prompt_hits_what_decode_wrote(smollm2_weights: Weights) -> None:
    server = make_server(smollm2_weights, Shape())
    answer = answers()[SHORT[-1]]
    run(server, [answer])
    # the whole conversation so far, as prompt: its KV was written by decode
    prompt = answer.prompt_token_ids + answer.output_token_ids[:32]
    (client,) = server.run([request("next", prompt, max_tokens=32)])
    assert client.tokens == answer.output_token_ids[32:]
    assert client.num_cached_tokens == 16 * ((len(prompt) - 1) // 16)


@pytest.mark.parametrize("mode", ["separated", "unified"])
def test_preemption_does_not_change_tokens(smollm2_weights: Weights, mode: str) -> None:
    chosen = pick(SHORT[:8])
    server = make_server(
        smollm2_weights, Shape(mode, num_pages=16, max_model_len=256, max_num_seqs=8)
    )
    run(server, chosen)
    assert server.ledger.counters().preempted > 0


def test_what_a_preempted_request_had_computed_itself_was_not_cached(tiny_llama: Path) -> None:
    """Else its client would be told of more tokens from the cache than its prompt has."""
    shape = Shape(num_pages=9, max_model_len=96, threads=1)
    server, tokenizer = make_server(Weights(tiny_llama), shape), Tokenizer(tiny_llama)
    asked = [request(f"r{i}", [i, 1, 2, 3, 4], max_tokens=80) for i in range(2)]
    now = time.monotonic()
    streams = [RequestStream(each, tokenizer, now, lambda: None) for each in asked]
    for stream in streams:
        stream.submit(server.router)
    while not server.router.is_idle:
        server.round()
        for stream in streams:
            stream.read()
    assert server.ledger.counters().preempted > 0
    assert server.ledger.counters().prefix_hit_tokens > 5
    assert [stream.snapshot().num_cached_tokens for stream in streams] == [0, 0]


def test_a_worker_that_dies_does_not_change_tokens(smollm2_weights: Weights) -> None:
    server = make_server(smollm2_weights, Shape())
    chosen = pick(SHORT[:6])
    clients = [Client(request(f"r{i}", a.prompt_token_ids)) for i, a in enumerate(chosen)]
    for client in clients:
        server.router.submit(client.request, client)
    for number in range(400):
        if server.router.is_idle:
            break
        if number in (1, 20, 40):
            server.workers[-1].dead = True
        server.round()
    for answer, client in zip(chosen, clients, strict=True):
        assert client.last is not None
        assert_equals(answer, client.tokens)
    server.check_empty()
    assert server.ledger.counters().reaped > 0


SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=7, ignore_eos=True)


def sampled(weights: Weights, shape: Shape, others: Sequence[int]) -> list[int]:
    """Tokens of one seeded request, with other requests beside it."""
    server = make_server(weights, shape)
    first = request("seeded", answers()[SHORT[3]].prompt_token_ids, SAMPLED, max_tokens=32)
    rest = [request(f"o{i}", answers()[i].prompt_token_ids, max_tokens=20) for i in others]
    return server.run([first, *rest])[0].tokens


def test_seeded_sampling_is_the_same_in_both_modes_and_any_company(
    smollm2_weights: Weights,
) -> None:
    alone = sampled(smollm2_weights, Shape(), [])
    assert alone == sampled(smollm2_weights, Shape("unified"), SHORT[:3])
    assert alone == sampled(smollm2_weights, Shape("separated", chunk=32), SHORT[5:8])
    assert alone != answers()[SHORT[3]].output_token_ids[:32], "it was not sampled at all"


# -- tiny phi: head_dim 80, every shape -----------------------------------------------------------


@pytest.fixture(scope="module")
def phi(tiny_phi: Path) -> tuple[Weights, list[Answer]]:
    from tests.checkpoints import greedy, transformers_model

    model = transformers_model(tiny_phi)
    prompts = [
        [(7 * i + j * j) % 250 for j in range(n)] for i, n in enumerate((1, 5, 33, 100, 190))
    ]
    return Weights(tiny_phi), [greedy(model, p, 48, f"phi-{len(p)}") for p in prompts]


@pytest.mark.parametrize("num_pages", [4096, 0], ids=["roomy", "smallest-pool"])
@pytest.mark.parametrize("chunk", [16, 48, 256])
@pytest.mark.parametrize("page_size", [16, 32, 128])
@pytest.mark.parametrize("mode", ["separated", "unified", "2P2D"])
def test_phi_gives_the_tokens_of_transformers(
    phi: tuple[Weights, list[Answer]], mode: str, page_size: int, chunk: int, num_pages: int
) -> None:
    weights, expected = phi
    shape = Shape(
        mode,
        page_size,
        chunk,
        num_pages=num_pages or -(-240 // page_size),
        max_model_len=240,
        threads=1,
    )
    server = make_server(weights, shape)
    run(server, expected, num_tokens=48)
    run(server, expected, num_tokens=48)  # with prefix hits
    if num_pages:
        assert server.ledger.counters().prefix_hit_tokens > 0
