"""clock: time as a test decides it."""

from __future__ import annotations

import pytest


class Clock:
    """Seconds that the test decides."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()
