"""Fixtures of the kernel tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pdrt import _C


@pytest.fixture(params=["avx512_bf16", "avx512", "avx2", "portable"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test that asks for it runs with each instruction set that this machine has."""
    before = _C.cpu_isa()
    try:
        _C.set_cpu_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    _C.set_cpu_isa(before)


@pytest.fixture
def one_thread_after() -> Iterator[None]:
    yield
    _C.set_num_threads(1)
