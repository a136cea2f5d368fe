"""Workers of a real server that stop, or die, inside the ledger's lock.

The workers run the extension whose shared writes are counted; a signal arms it. A stopped holder is
found by the keeper within LOCK_SECONDS and killed; the next taker of the lock rebuilds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pdrt
from pdrt.worker.watch import LOCK_SECONDS
from tests.processes import eventually, is_running

pytestmark = pytest.mark.chaos

# Read by every Python that starts with this folder on its path: puts the counting extension in the
# place of the other, and arms it when a signal says so.
SITECUSTOMIZE = """
import signal, sys
if "pdrt.worker.main" in sys.orig_argv:
    import pdrt
    from pdrt import _C_failpoints as C
    sys.modules["pdrt._C"] = pdrt._C = C
    signal.signal(signal.SIGUSR1, lambda *_: C.failpoint_arm({write}, stop=True))
    signal.signal(signal.SIGUSR2, lambda *_: C.failpoint_arm({write}))
"""
WRITE = 12  # of those since the signal: in the boundary of a step with four rows
PROMPTS = [[(3 * i + j) % 250 for j in range(20)] for i in range(4)]
GREEDY = {"temperature": 0.0, "max_tokens": 400, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pdrt.Engine]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(write=WRITE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        with pdrt.Engine(
            str(tiny_llama), max_model_len=512, watchdog_timeout=30.0, log_level="error"
        ) as engine:
            yield engine


def decode_pid(engine: pdrt.Engine) -> int:
    return next(w.pid for w in engine.metrics().workers if w.name == "decode-0")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=["stops", "dies"])
def test_a_worker_that_ends_inside_the_lock_costs_time_and_no_token(
    engine: pdrt.Engine, number: signal.Signals
) -> None:
    expected = [out.outputs[0].token_ids for out in engine.generate(PROMPTS, GREEDY)]
    rebuilds, victim = engine.metrics().num_rebuilds, decode_pid(engine)
    tokens: dict[int, list[int]] = {}
    struck = 0.0
    for output in engine.generate(PROMPTS, GREEDY, stream=True):
        tokens[PROMPTS.index(output.prompt_token_ids)] = output.outputs[0].token_ids
        if not struck and len(tokens) == len(PROMPTS) and min(map(len, tokens.values())) > 20:
            os.kill(victim, number)
            struck = time.monotonic()
            assert eventually(lambda: not is_running(victim), LOCK_SECONDS + 2.0)
    assert [tokens[i] for i in range(len(PROMPTS))] == expected
    assert engine.metrics().num_rebuilds == rebuilds + 1, "it did not die inside the lock"
    assert engine.metrics().audit_violations == 0
