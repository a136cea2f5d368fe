"""The one settings object, for pdrt.Engine and for the command line.

Frozen and validated at birth; every message names the flag, the value and one that would work.
The environment is read here and in pdrt.serve, nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec

from pdrt.errors import ConfigError

DType = Literal["auto", "float32", "bfloat16"]
MemoryExport = Literal["auto", "vmm", "ipc"]
Mps = Literal["auto", "on", "off"]
LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]
Mode = Literal["separated", "unified"]
Quantization = Literal["none", "int8"]
LogLevel = Literal["debug", "info", "warning", "error"]

MAX_WORKERS = 64
MAX_SEQS = 2048  # all requests of a worker are told in one frame, when it dies
MAX_TPOT_TARGET_MS = 500.0  # an idle worker still beats twice a second
MIN_WATCHDOG_TIMEOUT = 1.0  # seconds; for the same reason
PAGE_SIZES = (16, 32, 64, 128, 256)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may set. None means: chosen from the model and the machine at start-up.

    Attributes:
        model: a folder in Hugging Face layout, a GGUF file, a name on the hub (ORG/NAME, or
            ORG/NAME:FILE.gguf), or "" for the default.
        revision: a branch, tag or commit on the hub; None is the main branch.
        load_format: auto takes what the model has; dummy gives random weights for its config.
        device: cpu, cuda:N, or auto: the first GPU that CUDA shows, else the CPU.
        memory_export: how memory of a GPU is shared: vmm by descriptors, ipc by legacy handles;
            auto takes vmm where the device can.
        mem_fraction_static: share of a GPU's memory for all that the server takes: weights, KV pool
            and what the workers hold at their largest steps.
        mps: a private MPS daemon, so that workers use a GPU at the same time; auto: where it is.
        prefill_sm_percent: with MPS, the most of a GPU's multiprocessors that prefill may use.
        reproducible: on a GPU, attention sums at fixed places, so that its bits do not depend on
            which requests share a step; on the CPU that is always so.
        dtype: of weights and KV. auto: the checkpoint's own, float32 where the CPU lacks bfloat16.
        quantization: of the weights of linears, which int8 halves; docs/cpu.md. CPU only.
        max_model_len: longest prompt + output, tokens.
        max_num_seqs: most requests in one decode step of one worker.
        max_num_batched_tokens: most tokens in one step; longer prompts are prefilled in chunks.
        page_size: token slots of one KV page.
        num_pages: pages of the KV pool.
        num_prefill_workers, num_decode_workers: processes of each phase in separated mode.
        disaggregation_mode: separated, or unified: one worker that does both phases.
        threads: compute threads of all workers together; at most the cores.
        pin_threads: bind each compute thread to a core of its own.
        lend_cores: a worker that has nothing to compute lends its cores to those that have.
        tpot_target_ms: in separated mode, the milliseconds for each token that readers need. While
            prompts are computed, decode waits that long between steps and lends its cores; None:
            never, which is best for readers and worst for prompts.
        max_queued_requests: requests beyond it are refused.
        watchdog_timeout: seconds without progress after which a worker is killed.
        shutdown_timeout: seconds that a drain may take.
        seed: of requests that give none, and of dummy weights.
        chat_template: a built-in name or a Jinja file; None is the model's own.
    """

    model: str = ""
    revision: str | None = None
    load_format: LoadFormat = "auto"
    dtype: DType = "auto"
    quantization: Quantization = "none"
    device: str = "auto"
    memory_export: MemoryExport = "auto"
    mem_fraction_static: float = 0.9
    mps: Mps = "auto"
    prefill_sm_percent: int = 100
    reproducible: bool = False
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    page_size: int = 16
    num_pages: int | None = None
    num_prefill_workers: int = 1
    num_decode_workers: int = 1
    disaggregation_mode: Mode = "separated"
    threads: int | None = None
    pin_threads: bool = True
    lend_cores: bool = True
    tpot_target_ms: float | None = None
    max_queued_requests: int = 2048
    watchdog_timeout: float = 10.0
    shutdown_timeout: float = 30.0
    seed: int = 0
    log_level: LogLevel = "info"
    chat_template: str | None = None

    def __post_init__(self) -> None:
        def require(good: bool, name: str, accepted: str) -> None:
            if not good:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag} is {getattr(self, name)!r}; {accepted}")

        require(self.dtype in get_args(DType), "dtype", f"give one of {', '.join(get_args(DType))}")
        require(
            self.quantization in get_args(Quantization),
            "quantization",
            f"give one of {', '.join(get_args(Quantization))}",
        )
        require(
            self.load_format in get_args(LoadFormat),
            "load_format",
            f"give one of {', '.join(get_args(LoadFormat))}",
        )
        require(self.revision != "", "revision", "give a branch, tag or commit, or leave it out")
        require(
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is not None,
            "device",
            "give auto, cpu, cuda or cuda:N",
        )
        require(
            self.memory_export in get_args(MemoryExport),
            "memory_export",
            f"give one of {', '.join(get_args(MemoryExport))}",
        )
        require(self.mps in get_args(Mps), "mps", f"give one of {', '.join(get_args(Mps))}")
        require(1 <= self.prefill_sm_percent <= 100, "prefill_sm_percent", "give 1 to 100")
        require(
            0 < self.mem_fraction_static < 1, "mem_fraction_static", "give more than 0, less than 1"
        )
        require(
            self.disaggregation_mode in get_args(Mode),
            "disaggregation_mode",
            "give separated or unified",
        )
        require(
            self.log_level in get_args(LogLevel),
            "log_level",
            f"give one of {', '.join(get_args(LogLevel))}",
        )
        require(self.page_size in PAGE_SIZES, "page_size", f"give one of {PAGE_SIZES}")
        for name in ("max_model_len", "num_pages", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "give 1 or more, or leave it out")
        require(self.max_queued_requests >= 1, "max_queued_requests", "give 1 or more")
        require(1 <= self.max_num_seqs <= MAX_SEQS, "max_num_seqs", f"give 1 to {MAX_SEQS}")
        for name in ("num_prefill_workers", "num_decode_workers"):
            require(1 <= getattr(self, name) <= MAX_WORKERS, name, f"give 1 to {MAX_WORKERS}")
        if self.tpot_target_ms is not None:
            name = "tpot_target_ms"
            most = MAX_TPOT_TARGET_MS
            require(0 < self.tpot_target_ms <= most, name, f"give more than 0, at most {most:g}")
            separated = self.disaggregation_mode == "separated"
            require(separated, name, "leave it out in unified mode, where a step has both phases")
            require(self.lend_cores, name, "leave it out with --no-lend-cores")
        require(self.shutdown_timeout > 0, "shutdown_timeout", "give seconds, more than 0")
        least = MIN_WATCHDOG_TIMEOUT
        require(
            self.watchdog_timeout >= least, "watchdog_timeout", f"give seconds, {least:g} or more"
        )
        require(0 <= self.seed < 2**63, "seed", "give 0 to 2^63 - 1")
        require(
            self.max_num_batched_tokens >= self.max_num_seqs,
            "max_num_batched_tokens",
            f"a step must hold one token of each of --max-num-seqs {self.max_num_seqs} requests: "
            f"give {self.max_num_seqs} or more",
        )

    @property
    def num_workers(self) -> int:
        if self.disaggregation_mode == "unified":
            return 1
        return self.num_prefill_workers + self.num_decode_workers


def settings_of(**values: object) -> Settings:
    """Settings from keyword arguments, with pdrt's errors for unknown names and wrong types.

    Raises:
        ConfigError: names the setting.
    """
    try:
        return msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings: {error}") from None


def as_settings(model: object, others: Mapping[str, object]) -> Settings:
    """Of the arguments of pdrt.Engine: a model and other settings, or Settings alone.

    Raises:
        ConfigError: names the argument.
    """
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if isinstance(model, str):
        return settings_of(model=model, **others)
    if not isinstance(model, Settings):
        raise ConfigError(
            f"model is {model!r}; give a folder, a GGUF file, a name on the hub, or Settings"
        )
    if others:
        raise ConfigError(f"give {', '.join(others)} in the Settings object")
    return model


def cache_dir() -> Path:
    """The folder for converted checkpoints: $XDG_CACHE_HOME/pdrt, else ~/.cache/pdrt.

    A relative XDG_CACHE_HOME is ignored, as the XDG base directory specification says.

    Raises:
        ConfigError: this user has no home, and XDG_CACHE_HOME is not set.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "pdrt"
    try:
        return Path.home() / ".cache" / "pdrt"
    except RuntimeError:
        raise ConfigError(
            "this user has no home directory; set XDG_CACHE_HOME to a folder that can be written to"
        ) from None


def visible_devices() -> list[str]:
    """What CUDA_VISIBLE_DEVICES lists: numbers or UUIDs; nothing where it is not set."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [each.strip() for each in listed if each.strip()]


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a keeper, loader or worker process.

    Thread counts are set for every library that makes threads of its own. Waits are passive: one
    runnable thread more than cores, spinning in OpenMP's barriers, makes a step 30 times slower.
    """
    package_root = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (package_root, inherited))),
        "PYTHONSAFEPATH": "1",  # never import from the user's working directory
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
    }
