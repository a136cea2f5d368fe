"""Long, many and odd requests get transformers' tokens and leave nothing behind.

Real ledger, schedulers, runner and kernels in this process, on tiny random checkpoints; where
processes matter, a real engine (test_many_and_odd_requests.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pdrt.request import Request
from tests.checkpoints import VOCAB_SIZE, make_llama
from tests.in_process import Client, InProcessServer
from tests.model_server import Shape, Weights, make_server, request
from tests.oracle import assert_equals
from tests.rope_cases import LINEAR, LLAMA3, LONGROPE, YARN
from tests.tiny_oracle import TinyOracle

pytestmark = pytest.mark.timeout(900)  # a busy machine takes minutes for the longest of these

NUM_TOKENS = 16
MODES = ("separated", "unified", "2P3D")
PAGE_SIZES = (16, 32, 64, 128, 256)
LONG = 32_768
THETA = {"rope_theta": 10_000.0}
# Two layers, so that what the first computes for every position matters; wide for their few heads,
# so that attention picks out few positions of many, near or far.
LONG_SIZES: dict[str, object] = {
    "max_position_embeddings": LONG,
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
# Changes of the configuration with which the long context is tested. Not of dynamic scaling: what
# transformers does there hangs on the length of the text at hand, see docs/models.md.
TRAINED = {"original_max_position_embeddings": LONG // 4}
LONG_CONFIGS: dict[str, dict[str, object]] = {
    "plain": {},
    "linear": {"max_position_embeddings": LONG // 4, "rope_parameters": LINEAR | THETA},
    "yarn": {"rope_parameters": YARN | TRAINED | THETA},
    "llama3": {"rope_parameters": LLAMA3 | TRAINED | THETA},
    "longrope": {"rope_parameters": LONGROPE | TRAINED | THETA},
}

Prompt = Sequence[int]


@pytest.fixture(scope="module")
def weights(tiny_llama: Path) -> Weights:
    return Weights(tiny_llama)


@pytest.fixture(scope="module")
def oracle(tiny_llama: Path) -> TinyOracle:
    return TinyOracle(tiny_llama, NUM_TOKENS)


@pytest.fixture(scope="module")
def long_checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Weights, TinyOracle]]:
    """Makes the checkpoint of one of LONG_CONFIGS, with its oracle, once."""
    made: dict[str, tuple[Weights, TinyOracle]] = {}

    def make(name: str) -> tuple[Weights, TinyOracle]:
        if name not in made:
            folder = tmp_path_factory.mktemp(f"long-{name}")
            make_llama(folder, **{**LONG_SIZES, **LONG_CONFIGS[name]})
            made[name] = Weights(folder), TinyOracle(folder, num_tokens=8)
        return made[name]

    return make


def random_prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(f"{length} {seed}").choices(range(VOCAB_SIZE), k=length)


def run(
    server: InProcessServer,
    oracle: TinyOracle,
    prompts: Sequence[Prompt],
    num_tokens: int | Sequence[int] = NUM_TOKENS,
) -> list[Client]:
    """Runs all prompts at once, compares each with the oracle and leaves an empty server."""
    counts = [num_tokens] * len(prompts) if isinstance(num_tokens, int) else num_tokens
    clients = server.run(requests(prompts, counts))
    check(server, oracle, clients)
    return clients


def requests(prompts: Sequence[Prompt], counts: Sequence[int]) -> list[Request]:
    each = enumerate(zip(prompts, counts, strict=True))
    return [request(f"r{i}", prompt, max_tokens=count) for i, (prompt, count) in each]


def check(server: InProcessServer, oracle: TinyOracle, clients: Sequence[Client]) -> None:
    """All have all tokens, and the right ones; the ledger is in order and its pages are at rest."""
    answers = oracle.answers([client.request.prompt_token_ids for client in clients])
    for answer, client in zip(answers, clients, strict=True):
        assert client.last is not None and client.last.finish_reason == "length", client.last
        assert len(client.tokens) == client.request.max_tokens
        assert_equals(answer, client.tokens)
    server.check_empty()


# -- long -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in list(LONG_CONFIGS)[1:])],
)
@pytest.mark.parametrize(
    "shape",
    [
        Shape("separated", page_size=256, chunk=2048),
        pytest.param(Shape("unified", page_size=16, chunk=512), marks=pytest.mark.slow),
        pytest.param(Shape("2P3D", page_size=64, chunk=1000), marks=pytest.mark.slow),
    ],
    ids=lambda shape: f"{shape.mode}-{shape.page_size}-{shape.chunk}",
)
def test_a_context_of_32k_is_filled_to_its_last_token(
    long_checkpoint: Callable[[str], tuple[Weights, TinyOracle]], config: str, shape: Shape
) -> None:
    weights, oracle = long_checkpoint(config)
    size = shape.page_size
    server = make_server(weights, replace(shape, max_model_len=LONG, num_pages=LONG // size))
    prompt = random_prompt(LONG - 8)
    run(server, oracle, [prompt], num_tokens=8)
    (again,) = run(server, oracle, [prompt], num_tokens=8)
    assert again.num_cached_tokens == (len(prompt) - 1) // size * size


def test_the_long_answer_hangs_on_the_far_beginning(
    long_checkpoint: Callable[[str], tuple[Weights, TinyOracle]],
) -> None:
    """Otherwise the test above would not see whether far positions are right."""
    _, oracle = long_checkpoint("plain")
    prompt = random_prompt(LONG - 8)
    near_only = random_prompt(LONG // 4) + prompt[LONG // 4 :]
    right, other = oracle.answers([prompt, near_only])
    assert right.output_token_ids != other.output_token_ids


@pytest.mark.parametrize("mode", MODES)
def test_requests_may_fill_the_context_to_its_last_token(
    weights: Weights, oracle: TinyOracle, mode: str
) -> None:
    server = make_server(weights, Shape(mode, max_model_len=100, num_pages=40, chunk=32))
    room = [1, 2, 4, 5, 15, 16]
    clients = run(server, oracle, [random_prompt(100 - n) for n in room], room)
    assert [len(c.request.prompt_token_ids) + len(c.tokens) for c in clients] == [100] * len(room)


# -- borders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_prompts_may_end_beside_and_on_borders_of_pages_and_chunks(
    weights: Weights, oracle: TinyOracle, page_size: int
) -> None:
    chunk = 3 * page_size // 2  # every second chunk ends in the middle of a page
    borders = [page_size, 2 * page_size, chunk, 2 * chunk]
    lengths = [border + beside for border in borders for beside in (-1, 0, 1)]
    shape = Shape("separated", page_size=page_size, chunk=chunk, max_model_len=1024, num_pages=64)
    prompts = [random_prompt(length) for length in lengths]
    run(make_server(weights, shape), oracle, prompts)
    alone = make_server(weights, shape)  # then each chunk is of one prompt
    for prompt in prompts[:: 1 if page_size < 64 else 4]:
        run(alone, oracle, [prompt])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_the_smallest_legal_pool_gives_the_right_tokens_through_preemption(
    weights: Weights, oracle: TinyOracle, page_size: int, mode: str
) -> None:
    shape = Shape(mode, page_size=page_size, max_model_len=3 * page_size, num_pages=3)
    server = make_server(weights, replace(shape, chunk=2 * page_size))
    # Three fit with a page each; at its fifth token each asks for a second one.
    run(server, oracle, [random_prompt(page_size - 4, seed) for seed in range(6)])
    assert server.ledger.counters().preempted > 0


@pytest.mark.parametrize("mode", MODES)
def test_one_token_may_be_all_that_is_wanted(
    weights: Weights, oracle: TinyOracle, mode: str
) -> None:
    server = make_server(weights, Shape(mode, chunk=40))
    run(server, oracle, [random_prompt(n) for n in (1, 2, 15, 16, 17, 39, 40, 41, 200)], 1)
    assert server.ledger.counters().handed_off == 0  # prefill samples it


# -- odd ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_id_of_the_vocabulary_may_be_a_prompt(
    weights: Weights, oracle: TinyOracle, mode: str
) -> None:
    prompts = [[token] for token in range(VOCAB_SIZE)]
    run(make_server(weights, Shape(mode, max_num_seqs=64)), oracle, prompts, 3)


def test_the_ends_of_the_vocabulary_may_stand_anywhere(
    weights: Weights, oracle: TinyOracle
) -> None:
    first, last = 0, VOCAB_SIZE - 1
    prompts = [[first] * 40, [last] * 40, [first, last] * 20, [last] + random_prompt(30) + [first]]
    run(make_server(weights, Shape(chunk=32)), oracle, prompts)


@pytest.mark.parametrize("mode", MODES)
def test_prompts_that_share_95_percent_share_their_pages(
    weights: Weights, oracle: TinyOracle, mode: str
) -> None:
    server = make_server(weights, Shape(mode, num_pages=128, max_model_len=512))
    common = random_prompt(380)
    prompts = [common + random_prompt(20, seed) for seed in range(24)]
    shared = 380 // 16  # full pages
    run(server, oracle, prompts[:1])
    clients = [Client(each) for each in requests(prompts[1:], [NUM_TOKENS] * 23)]
    tables = run_and_watch(server, clients)
    check(server, oracle, clients)
    # What follows the full pages can be copied while another request is filling its page.
    assert {client.num_cached_tokens for client in clients} == {16 * shared, 380}
    assert len(tables) >= 23 and len({table[:shared] for table in tables}) == 1
    assert server.ledger.counters().preempted == 0  # 128 pages hold 5 prompts that share nothing


def run_and_watch(server: InProcessServer, clients: Sequence[Client]) -> set[tuple[int, ...]]:
    """Runs the clients' requests; the page tables of all slots between any two steps."""
    seen: set[tuple[int, ...]] = set()
    for client in clients:
        server.router.submit(client.request, client)
    while not server.router.is_idle:
        server.round()
        slots = range(server.ledger.num_slots)
        held = [slot for slot in slots if server.ledger.info(slot).num_pages > 0]
        seen |= {tuple(server.ledger.page_table([slot])[0].tolist()) for slot in held}
    return seen
