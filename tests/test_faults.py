"""Real processes are killed and stopped; streams go on with the right tokens, nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pdrt
from pdrt.background import start_front_end
from pdrt.config import settings_of
from pdrt.errors import EngineDead, ModelError
from pdrt.startup import make_plan
from tests.processes import children, eventually, is_running, shared_memory_files, unix_sockets

pytestmark = pytest.mark.chaos

NUM_TOKENS = 900
GREEDY = {"temperature": 0.0, "max_tokens": NUM_TOKENS, "ignore_eos": True}
PROMPTS = [[(3 * i + j) % 250 for j in range(40)] for i in range(4)]
WATCHDOG_SECONDS = 2.0


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Iterator[pdrt.Engine]:
    with pdrt.Engine(
        str(tiny_llama),
        max_model_len=1024,
        watchdog_timeout=WATCHDOG_SECONDS,
        log_level="error",
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def undisturbed(engine: pdrt.Engine) -> list[list[int]]:
    return [out.outputs[0].token_ids for out in engine.generate(PROMPTS, GREEDY)]


class Streams:
    """The prompts, streamed in a thread of their own; every token in the order in which it came."""

    def __init__(self, engine: pdrt.Engine) -> None:
        self.tokens: list[list[int]] = [[] for _ in PROMPTS]
        self.error: BaseException | None = None
        self._engine = engine
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for output in self._engine.generate(PROMPTS, GREEDY, stream=True):
                i = PROMPTS.index(output.prompt_token_ids)
                tokens = output.outputs[0].token_ids
                assert tokens[: len(self.tokens[i])] == self.tokens[i], "a token was taken back"
                self.tokens[i] = tokens
        except BaseException as error:
            self.error = error

    def wait_for_tokens(self, count: int) -> None:
        assert eventually(lambda: all(len(t) >= count for t in self.tokens), 30.0), self.error

    def join(self) -> None:
        self._thread.join(60.0)
        assert not self._thread.is_alive(), [len(t) for t in self.tokens]


def pid_of(engine: pdrt.Engine, name: str) -> int:
    workers = {worker.name: worker for worker in engine.metrics().workers}
    return workers[name].pid


def is_settled(engine: pdrt.Engine) -> bool:
    pages = engine.metrics().pages
    return sum(pages[s] for s in ("prefilling", "sealed", "decoding", "quarantined")) == 0


@pytest.mark.parametrize("name", ["decode-0", "prefill-0"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
def test_streams_go_on_when_a_worker_dies_or_stops(
    engine: pdrt.Engine, undisturbed: list[list[int]], name: str, number: signal.Signals
) -> None:
    before, sockets = shared_memory_files(), unix_sockets()
    victim = pid_of(engine, name)
    streams = Streams(engine)
    streams.wait_for_tokens(20 if name == "decode-0" else 0)
    os.kill(victim, number)
    limit = 2.0 + (WATCHDOG_SECONDS if number == signal.SIGSTOP else 0.0)
    assert eventually(lambda: not is_running(victim), limit)
    assert eventually(lambda: pid_of(engine, name) not in (0, victim), 10.0 + limit)
    streams.join()
    assert streams.error is None, streams.error
    assert streams.tokens == undisturbed
    assert eventually(lambda: is_settled(engine), 2.0), engine.metrics()
    assert engine.health().ready
    assert engine.metrics().handoff_bytes == 0 and engine.metrics().audit_violations == 0
    assert shared_memory_files() <= before and unix_sockets() <= sockets


def test_requests_that_arrive_while_a_worker_is_down_are_served_when_it_is_back(
    engine: pdrt.Engine, undisturbed: list[list[int]]
) -> None:
    os.kill(pid_of(engine, "prefill-0"), signal.SIGKILL)
    assert eventually(lambda: not engine.health().ready, 2.0)
    assert "prefill-0" in str(engine.health().reason)
    output = engine.generate(PROMPTS[0], GREEDY)[0]
    assert output.outputs[0].token_ids == undisturbed[0]


def test_a_server_is_ready_while_another_worker_of_the_phase_is_up(tiny_llama: Path) -> None:
    with pdrt.Engine(
        str(tiny_llama), max_model_len=256, num_decode_workers=2, log_level="error"
    ) as engine:
        os.kill(pid_of(engine, "decode-0"), signal.SIGKILL)
        assert eventually(lambda: pid_of(engine, "decode-0") == 0)
        assert engine.health().ready
        assert engine.generate(PROMPTS[0], {"max_tokens": 5})[0].finished


SPOILED = """
import os, sys
if "pdrt.worker.main" in sys.orig_argv and os.path.exists({flag!r}):
    sys.exit("the disk is gone")
"""


def test_a_worker_that_cannot_be_started_again_ends_the_server_and_says_why(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    (tmp_path / "sitecustomize.py").write_text(SPOILED.format(flag=str(flag)))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pdrt.Engine(str(tiny_llama), max_model_len=256, log_level="error") as engine:
        flag.touch()
        os.kill(pid_of(engine, "prefill-0"), signal.SIGKILL)
        with pytest.raises(EngineDead, match="prefill-0 could not be started again, 5 times"):
            engine.generate(PROMPTS[0], GREEDY)
        assert not engine.health().live


def test_the_keepers_death_is_told_to_every_client_and_leaves_nothing(
    engine: pdrt.Engine,
) -> None:
    """The last test with this engine: it is dead afterwards."""
    before = shared_memory_files()
    keeper = engine.startup_summary()["keeper_pid"]
    assert isinstance(keeper, int)
    workers = children(keeper)
    assert len(workers) == 2
    streams = Streams(engine)
    streams.wait_for_tokens(5)
    os.kill(keeper, signal.SIGKILL)
    assert eventually(lambda: not any(map(is_running, workers)), 2.0)
    streams.join()
    assert isinstance(streams.error, EngineDead) and "keeper" in str(streams.error)
    with pytest.raises(EngineDead, match="keeper"):
        engine.generate("x", GREEDY)
    assert not engine.health().live
    assert shared_memory_files() <= before


def test_the_front_ends_death_takes_everything_with_it(tiny_llama: Path) -> None:
    before, sockets = shared_memory_files(), unix_sockets()
    script = textwrap.dedent(
        f"""
        import pdrt
        engine = pdrt.Engine({str(tiny_llama)!r}, max_model_len=1024, log_level="error")
        print("up", flush=True)
        while True:
            engine.generate("endless", {{"max_tokens": 500, "ignore_eos": True}})
        """
    )
    front = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert front.stdout and front.stdout.readline() == b"up\n"
    time.sleep(0.1)
    family = children(front.pid)
    assert len(family) == 3  # keeper, prefill, decode
    front.kill()
    front.wait(5.0)
    front.stdout.close()
    assert eventually(lambda: not any(map(is_running, family)), 2.0)
    assert shared_memory_files() <= before and unix_sockets() <= sockets


def test_weights_that_change_between_check_and_load_are_a_clear_error(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """The loader's own words reach the caller, and no process is left."""
    shutil.copytree(tiny_llama, tmp_path / "model")
    plan = make_plan(settings_of(model=str(tmp_path / "model"), max_model_len=64))
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    before = set(children(os.getpid()))  # of other tests' servers
    with pytest.raises(ModelError, match="truncated"):
        start_front_end(plan.server, max_queued_requests=1)
    assert eventually(lambda: set(children(os.getpid())) <= before, 2.0)
