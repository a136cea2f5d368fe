"""What the engine says of itself: snapshots for metrics, health and the start-up summary."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import structs

from pdrt.config import Settings
from pdrt.frontend import FrontEnd
from pdrt.messages import DeviceMemoryUse
from pdrt.metrics import EngineStats, WorkerStats
from pdrt.startup import Plan


@dataclass(frozen=True, slots=True)
class Health:
    """live: the processes exist. ready: requests are welcome; else `reason` says why not."""

    live: bool
    ready: bool
    reason: str | None


def health(front: FrontEnd) -> Health:
    reason = front.not_ready()
    return Health(live=front.dead is None, ready=reason is None, reason=reason)


def engine_stats(front: FrontEnd) -> EngineStats:
    """Pages as of the last audit, at most a quarter of a second ago; everything else as of now."""
    pages, counters, router = front.ledger.counts(), front.ledger.counters(), front.router
    return EngineStats(
        num_running=router.num_requests - router.num_waiting,
        num_waiting=router.num_waiting,
        page_size=front.server.page_size,
        num_pages=pages.total,
        pages={
            "free": pages.free,
            "prefilling": pages.prefilling,
            "sealed": pages.sealed,
            "decoding": pages.decoding,
            "cached": pages.cached,
            "quarantined": pages.quarantined,
        },
        num_handoffs=counters.handed_off,
        handoff_bytes=counters.handoff_bytes,
        num_preemptions=counters.preempted,
        num_evictions=counters.evicted,
        num_aborted=counters.aborted,
        num_rebuilds=counters.rebuilt,
        prefix_queried_tokens=counters.prefix_queried_tokens,
        prefix_hit_tokens=counters.prefix_hit_tokens,
        audit_violations=counters.violations,
        workers=tuple(_workers(front)),
    )


def _workers(front: FrontEnd) -> list[WorkerStats]:
    live = {state.name: state for state in front.workers}
    return [
        WorkerStats(
            name=spec.name,
            role=spec.role,
            pid=live[spec.name].pid if spec.name in live else 0,
            alive=spec.name in live,
            restarts=front.restarts.get(spec.name, 0),
            faults=front.faults.get(spec.name, 0),
        )
        for spec in front.server.workers
    ]


def startup_summary(settings: Settings, plan: Plan, front: FrontEnd) -> dict[str, object]:
    """What runs, in plain values: sizes in bytes, times in seconds."""
    server = front.server
    return {
        "model": settings.model or plan.model_name,
        "architecture": plan.spec.family,
        "device": server.device,
        "dtype": server.dtype,
        "quantization": server.quantization,
        "disaggregation_mode": settings.disaggregation_mode,
        "max_model_len": server.max_model_len,
        "page_size": server.page_size,
        "num_pages": server.num_pages,
        "kv_tokens": server.num_pages * server.page_size,
        "weight_bytes": server.weight_bytes,
        "kv_bytes": server.kv_bytes,
        "load_seconds": front.load_seconds,
        "device_memory": _device_memory(front.device_memory),
        "keeper_pid": front.keeper_pid,
        "workers": [
            {"name": state.name, "pid": state.pid, "threads": state.threads}
            for state in front.workers
        ],
    }


def _device_memory(use: DeviceMemoryUse | None) -> dict[str, int] | None:
    """Of a GPU, in bytes: what the parts take, and what is left."""
    return None if use is None else {**structs.asdict(use), "reserve": use.reserve}
