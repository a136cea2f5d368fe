"""benchmarks/peers: waves over HTTP, against a real server."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.peers.client import ask
from benchmarks.peers.load import Wave
from pdrt.bench.load.servers import free_port
from pdrt.errors import PdrtError
from tests.server_process import ServerProcess

PROMPTS = [[number + offset for offset in range(20)] for number in (1, 2, 3)]


def test_a_wave_gives_each_prompts_greedy_tokens_and_their_times(server: ServerProcess) -> None:
    answer = ask(server.url, Wave("output@3", PROMPTS, 12))
    body = {"prompt": PROMPTS, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    exact = server.client.post("/v1/completions", json=body | {"return_token_ids": True}).json()
    assert answer.tokens == [choice["token_ids"] for choice in exact["choices"]]
    for times in answer.times:
        assert len(times) == 12 and times[0] > 0
        assert all(a <= b for a, b in pairwise(times))


def test_a_refused_wave_says_why(server: ServerProcess) -> None:
    with pytest.raises(PdrtError, match=r"the server failed: HTTP 400: .*token"):
        ask(server.url, Wave("output@1", [[10**6]], 4))


def test_a_server_that_is_gone_is_told_not_raised_as_a_socket_error() -> None:
    with pytest.raises(PdrtError, match="the server failed: ClientConnectorError"):
        ask(f"http://127.0.0.1:{free_port()}", Wave("output@1", [[1]], 4))
