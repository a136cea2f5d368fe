"""Clients that leave or do not read: their requests end, their pages come back."""

from __future__ import annotations

import socket

import pytest

from tests.processes import eventually
from tests.server_process import ServerProcess, post


def aborted(server: ServerProcess) -> float:
    """Requests that ended by an abort, so far."""
    return server.metric("pdrt:request_success_total", finished_reason="abort")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_aborted_and_its_pages_come_back(
    server: ServerProcess, stream: bool
) -> None:
    before = aborted(server)
    body = {"prompt": [[7] * 40] * 4, "max_tokens": 1900, "ignore_eos": True, "stream": stream}
    connection = server.raw(post("/v1/completions", body))
    assert eventually(lambda: server.metric("pdrt:kv_pages", state="decoding") > 0)
    connection.close()
    assert eventually(server.is_idle, timeout=2.0)
    assert aborted(server) == before + 4


def test_a_client_that_does_not_read_is_cut_off_and_hurts_nobody(server: ServerProcess) -> None:
    before = aborted(server)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", server.port))
    body = {
        "prompt": [[7] * 30] * 8,
        "max_tokens": 2000,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    connection.sendall(post("/v1/completions", body))
    assert eventually(lambda: server.metric("pdrt:num_requests_running") == 8)
    assert server.complete(prompt="x", max_tokens=4).status_code == 200
    assert eventually(lambda: aborted(server) == before + 8, timeout=20.0)
    assert b"[DONE]" not in _rest_of(connection)
    connection.close()


def _rest_of(connection: socket.socket) -> bytes:
    """What is still to be read, until the end or a reset."""
    received = bytearray()
    try:
        while data := connection.recv(65536):
            received += data
    except (ConnectionError, TimeoutError):
        pass
    return bytes(received)
