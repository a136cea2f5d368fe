"""Checkpoints for the tests. Imports are inside: transformers takes seconds, and few need it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the tiny checkpoint of a family, made once."""
    from tests.checkpoints import make

    @cache
    def checkpoint(family: str) -> Path:
        return make(family, tmp_path_factory.mktemp(f"tiny-{family}"))

    return checkpoint


@pytest.fixture(scope="session")
def tiny_llama(tiny: Callable[[str], Path]) -> Path:
    return tiny("llama")


@pytest.fixture(scope="session")
def tiny_phi(tiny: Callable[[str], Path]) -> Path:
    return tiny("phi")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The default model; fetched on first use."""
    from pdrt.config import cache_dir
    from pdrt.model.source import resolve

    return resolve("", cache_dir())
