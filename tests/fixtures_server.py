"""One HTTP server for all tests that do not need one of their own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import eventually
from tests.server_process import ServerProcess

SEND_TIMEOUT = 2  # seconds, short for the test of a reader that does not read
MAX_MODEL_LEN = 2048
MAX_SEQS = 16
MAX_QUEUED = 16  # beyond the four slots for each of MAX_SEQS: 80 requests, fewer than 128


@pytest.fixture(scope="session")
def shared_server(tiny_llama: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(
        *("--model", str(tiny_llama), "--served-model-name", "tiny"),
        *("--max-model-len", str(MAX_MODEL_LEN)),
        *("--max-num-seqs", str(MAX_SEQS), "--max-queued-requests", str(MAX_QUEUED)),
        *("--send-timeout", str(SEND_TIMEOUT)),
    )
    yield server
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log()
    server.close()


@pytest.fixture
def server(shared_server: ServerProcess) -> Iterator[ServerProcess]:
    """The shared server; after each test it must have given back every page."""
    yield shared_server
    assert eventually(shared_server.is_idle), shared_server.client.get("/metrics").text
