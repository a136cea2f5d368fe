"""From what the user set to what the processes need: every default is resolved here, once.

Reads the checkpoint's headers and the machine's figures; takes no memory, starts nothing. A setting
that cannot work is refused here, with the number that would.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pdrt import machine
from pdrt.config import Settings, cache_dir
from pdrt.devices import CPU, choose_device
from pdrt.errors import ConfigError, MemoryShortage
from pdrt.kv.shape import KVShape
from pdrt.messages import Role, ServerSpec, WorkerSpec
from pdrt.model.checkpoint import locate, read_spec
from pdrt.model.layout import WeightDType, WeightFormat, weight_layout
from pdrt.model.source import display_name, resolve
from pdrt.model.spec import ModelSpec

log = logging.getLogger("pdrt")

KV_SHARE = 0.25  # of available memory, when --num-pages is not given
WORKER_OVERHEAD = 400 << 20  # bytes: interpreter, torch and activations of one worker, as measured
MAX_SEALED = 16  # requests between prefill and decode, before prefill waits
SLOTS_PER_SEQ = 4  # request slots of the ledger for each request that can decode at once


@dataclass(frozen=True, slots=True)
class Plan:
    """What the front end knows before any process runs."""

    model: str  # as it was set
    spec: ModelSpec
    server: ServerSpec
    available_memory: int

    @property
    def model_name(self) -> str:
        return display_name(self.model)

    @property
    def folder(self) -> Path:
        return Path(self.server.folder)

    @property
    def needed_memory(self) -> int:
        """Of the machine; a GPU has its own."""
        server = self.server
        slabs = server.weight_bytes + server.kv_bytes if server.device == CPU else 0
        return slabs + WORKER_OVERHEAD * len(server.workers)


def make_plan(settings: Settings) -> Plan:
    """Resolves all settings against the checkpoint and this machine.

    Raises:
        ModelError: the checkpoint cannot be used.
        ConfigError: settings that cannot work with this model or machine.
        MemoryShortage: the machine has too little memory for them.
    """
    folder = resolve(settings.model, cache_dir(), settings.revision, settings.load_format)
    spec = read_spec(folder)
    dummy_seed = settings.seed if settings.load_format == "dummy" else None
    if dummy_seed is None:
        locate(folder, spec)
    device = choose_device(settings.device)
    form = WeightFormat(_dtype(settings, spec, device), device, settings.quantization)
    max_model_len = _max_model_len(settings, spec)
    available = machine.available_memory()
    kv = KVShape(spec.num_layers, spec.num_kv_heads, settings.page_size, spec.head_dim, form.dtype)
    num_pages = _num_pages(settings, max_model_len, kv.page_bytes, available, device)
    server = ServerSpec(
        folder=str(folder),
        device=device,
        memory_export=settings.memory_export,
        mem_fraction_static=settings.mem_fraction_static,
        mps=settings.mps,
        prefill_sm_percent=settings.prefill_sm_percent,
        reproducible=settings.reproducible,
        dummy_seed=dummy_seed,
        dtype=form.dtype,
        quantization=form.quantization,
        max_model_len=max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        page_size=settings.page_size,
        num_pages=num_pages,
        num_slots=SLOTS_PER_SEQ * settings.max_num_seqs,
        sealed_bound=min(MAX_SEALED, settings.max_num_seqs),
        weight_bytes=weight_layout(spec, form).num_bytes,
        kv_bytes=kv.pool_bytes(num_pages),
        pin_threads=settings.pin_threads,
        lend_cores=settings.lend_cores,
        tpot_target_ms=settings.tpot_target_ms,
        watchdog_timeout=settings.watchdog_timeout,
        log_level=settings.log_level,
        namespace=_namespace(folder, form, max_model_len, dummy_seed),
        workers=tuple(_workers(settings)),
    )
    plan = Plan(settings.model, spec, server, available)
    _check_memory(plan)
    return plan


def _namespace(*parts: object) -> bytes:
    """Keys the prefix cache: with any other of these parts, the same tokens have another KV."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


def _dtype(settings: Settings, spec: ModelSpec, device: str) -> WeightDType:
    if settings.dtype != "auto":
        return settings.dtype
    has_bfloat16 = device != CPU or machine.has_bfloat16()
    return "bfloat16" if spec.dtype != "float32" and has_bfloat16 else "float32"


def _max_model_len(settings: Settings, spec: ModelSpec) -> int:
    most = spec.max_position_embeddings
    wanted = settings.max_model_len or most
    if not 2 <= wanted <= most:
        raise ConfigError(
            f"--max-model-len is {wanted}; this model knows positions for 2 to {most} tokens"
        )
    return wanted


def _num_pages(
    settings: Settings, max_model_len: int, page_bytes: int, available: int, device: str
) -> int:
    """What was set, else what --max-num-seqs full requests need, within a share of the memory.

    On a GPU, 0 where nothing was set: its loader takes what fits.
    """
    smallest = -(-max_model_len // settings.page_size)
    if settings.num_pages is not None:
        if settings.num_pages < smallest:
            raise ConfigError(
                f"--num-pages is {settings.num_pages}, too few for one request of --max-model-len "
                f"{max_model_len} tokens; {smallest} pages of {settings.page_size} tokens work, or "
                f"--max-model-len {settings.num_pages * settings.page_size}"
            )
        return settings.num_pages
    if device != CPU:
        return 0
    affordable = int(KV_SHARE * available) // page_bytes
    if affordable < smallest:
        raise MemoryShortage(
            f"a quarter of the {_gib(available)} available holds {affordable} KV pages, and one "
            f"request of {max_model_len} tokens needs {smallest}; give --max-model-len "
            f"{affordable * settings.page_size} or fewer, or set --num-pages"
        )
    return min(smallest * settings.max_num_seqs, affordable)


def _workers(settings: Settings) -> Iterator[WorkerSpec]:
    """The workers, with the machine's cores shared out; what is left over goes to prefill.

    Decode is bound by memory, which one core nearly fills; prefill profits from every core.
    """
    cores = machine.cores()
    threads = settings.threads or len(cores)
    if threads > len(cores):
        raise ConfigError(f"--threads is {threads}; this machine has {len(cores)} cores to run on")
    if settings.num_workers > threads:
        log.warning(
            "%d workers share %d cores, one thread each: they will wait for each other",
            settings.num_workers,
            threads,
        )
    in_turn = itertools.cycle(cores[:threads])
    counts: list[tuple[Role, int]] = [("unified", 1)]
    if settings.disaggregation_mode == "separated":
        counts = [("prefill", settings.num_prefill_workers)]
        counts += [("decode", settings.num_decode_workers)]
    share, rest = divmod(threads, settings.num_workers)
    index = 0
    for role, count in counts:
        for number in range(count):
            num_cores = max(1, share + (index < rest))
            yield WorkerSpec(index, role, number, tuple(itertools.islice(in_turn, num_cores)))
            index += 1


def _check_memory(plan: Plan) -> None:
    """States what is needed, while nothing of it is taken yet, and refuses what does not fit."""
    server, on_cpu = plan.server, plan.server.device == CPU
    count = len(server.workers)
    workers = f"{count} worker{'s' * (count > 1)} {_gib(WORKER_OVERHEAD * count)}"
    weights, pool = _weights(server), _pool(server)
    parts = f"{weights}, {pool}, {workers}" if on_cpu else workers
    if plan.needed_memory > plan.available_memory:
        advice = "--num-pages or --max-model-len" if on_cpu else "number of workers"
        raise MemoryShortage(
            f"{_gib(plan.needed_memory)} are needed and {_gib(plan.available_memory)} are "
            f"available: {parts}; give a smaller {advice}"
        )
    needed, available = _gib(plan.needed_memory), _gib(plan.available_memory)
    log.info("memory: %s; %s of %s available are needed", parts, needed, available)
    if not on_cpu:
        log.info("memory of %s: %s, %s", server.device, weights, pool)


def _weights(server: ServerSpec) -> str:
    kind = "weights" if server.quantization == "none" else f"{server.quantization} weights"
    return f"{kind} {_gib(server.weight_bytes)}"


def _pool(server: ServerSpec) -> str:
    if server.num_pages == 0:
        return f"KV pool of what --mem-fraction-static {server.mem_fraction_static:g} leaves"
    return f"KV pool {_gib(server.kv_bytes)} ({server.num_pages} pages)"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
