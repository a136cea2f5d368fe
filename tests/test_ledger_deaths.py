"""A worker may be killed between any two writes: nothing is lost and nobody else suffers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ledger_killer import SCENES

ROOT = Path(__file__).resolve().parent.parent
FEWEST_WRITES = 2  # the acquisition counter and one more


@pytest.mark.chaos
@pytest.mark.parametrize("scene", SCENES)
def test_a_death_after_any_write_loses_nothing(scene: str) -> None:
    killer = subprocess.run(
        [sys.executable, "-m", "tests.ledger_killer", scene],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killer.returncode == 0, killer.stderr
    assert int(killer.stdout) >= FEWEST_WRITES, "the operation wrote nothing: a wrong scene"
