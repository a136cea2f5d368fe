"""make_ledger: a small ledger whose books must balance when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pdrt import _C
from tests.ledger_driver import assert_clean

SMALL = {
    "num_pages": 8,
    "page_size": 4,
    "num_slots": 4,
    "max_model_len": 16,
    "sealed_bound": 2,
}


@pytest.fixture
def make_ledger() -> Iterator[Callable[..., _C.Ledger]]:
    """Makes ledgers of 8 pages of 4 tokens, or of the sizes given; audits each after the test."""
    made: list[_C.Ledger] = []

    def make(**sizes: int | bytes) -> _C.Ledger:
        made.append(_C.Ledger.create(**{**SMALL, **sizes}))
        return made[-1]

    yield make
    for ledger in made:
        assert_clean(ledger)
