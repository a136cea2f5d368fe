"""Checkpoints for the tests. Imports are inside: transformers takes seconds, and few need it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.checkpoints import make_llama

    return make_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.checkpoints import make_phi

    return make_phi(tmp_path_factory.mktemp("tiny-phi"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The default model; fetched on first use."""
    from pdrt.config import cache_dir
    from pdrt.model.checkpoint import resolve

    return resolve("", cache_dir())
