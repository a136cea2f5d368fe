"""One engine for the tests of a file that do not need one of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import pdrt
from tests.processes import eventually

GREEDY = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def shared_engine(tiny_llama: Path) -> Iterator[pdrt.Engine]:
    with pdrt.Engine(str(tiny_llama), max_model_len=512, max_num_seqs=8) as engine:
        yield engine


@pytest.fixture
def engine(shared_engine: pdrt.Engine) -> Iterator[pdrt.Engine]:
    """After each test every page must be free or cached again."""
    yield shared_engine

    def is_idle() -> bool:
        pages = shared_engine.metrics().pages
        busy = sum(pages[s] for s in ("prefilling", "sealed", "decoding", "quarantined"))
        assert sum(pages.values()) == shared_engine.plan.server.num_pages
        return busy == 0

    assert eventually(is_idle, 5.0), shared_engine.metrics()
    assert shared_engine.metrics().handoff_bytes == 0
