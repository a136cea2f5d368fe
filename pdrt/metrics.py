"""What pdrt counts and how Prometheus reads it: `pdrt:*` with vLLM's suffixes, label model_name.

Two sources meet in one private registry:

    EngineStats      a snapshot that the engine gives at each scrape: pages, queues, ledger counters
    RequestHistory   what the front end sees pass by: tokens, and a request's times when it ends

Workers export nothing themselves. Times are seconds of CLOCK_MONOTONIC; touches no tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pdrt.request import RequestMetrics
from pdrt.token_metrics import GAP_BUCKETS, TokenCollector

FINISH_REASONS = ("stop", "length", "abort", "error")
PAGE_STATES = ("free", "prefilling", "sealed", "decoding", "cached", "quarantined")

# fmt: off
# The buckets that dashboards of inference servers expect for the time to the first token.
_WAIT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)
# fmt: on
_HANDOFF_BUCKETS = (0.0001, 0.0002, 0.0005, *GAP_BUCKETS)


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """One worker process as the front end knows it.

    `restarts` counts new incarnations, `faults` those of them that a fault of the GPU made needed.
    """

    name: str
    role: str
    pid: int
    alive: bool
    restarts: int = 0
    faults: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment.

    `pages` maps each of PAGE_STATES to a count; they add up to `num_pages`, the size of the pool.
    Counters count since the engine's start; `handoff_bytes` are KV bytes moved at hand-off.
    """

    num_running: int
    num_waiting: int
    page_size: int
    num_pages: int
    pages: Mapping[str, int]
    num_handoffs: int = 0
    handoff_bytes: int = 0
    num_preemptions: int = 0
    num_evictions: int = 0
    num_aborted: int = 0
    num_rebuilds: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    audit_violations: int = 0
    workers: tuple[WorkerStats, ...] = ()

    @property
    def kv_cache_usage(self) -> float:
        """Share of pages, 0 to 1, that a request holds or that cannot be given to one yet."""
        idle = self.pages["free"] + self.pages["cached"]
        return 1.0 - idle / self.num_pages


_COUNTERS = (
    ("num_handoffs", "num_handoffs", "Requests that decode took over from prefill."),
    ("handoff_bytes", "handoff_bytes", "KV bytes moved at hand-off."),
    ("num_preemptions", "num_preemptions", "Requests that gave back their pages and queued again."),
    ("num_evictions", "num_evictions", "Cached pages dropped for another use."),
    ("num_requests_aborted", "num_aborted", "Requests whose pages were released by an abort."),
    ("ledger_rebuilds", "num_rebuilds", "Times the ledger was rebuilt after a death in its lock."),
    ("prefix_cache_queries", "prefix_queried_tokens", "Tokens looked up in the prefix cache."),
    ("prefix_cache_hits", "prefix_hit_tokens", "Tokens found in the prefix cache."),
    ("audit_violations", "audit_violations", "Broken invariants that the auditor found."),
)

_GAUGES = (
    ("num_requests_running", "num_running", "Requests in prefill, hand-off or decode."),
    ("num_requests_waiting", "num_waiting", "Requests that wait for prefill."),
    ("kv_cache_usage_perc", "kv_cache_usage", "Share of KV pages in use, 0 to 1, without cached."),
)


class EngineCollector(Collector):
    """Turns the engine's snapshot into metrics, once for each scrape."""

    def __init__(self, snapshot: Callable[[], EngineStats], model_name: str) -> None:
        self._snapshot = snapshot
        self._model_name = model_name

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering takes no snapshot."""
        return ()

    def collect(self) -> Iterator[Metric]:
        stats = self._snapshot()
        for name, attribute, text in _GAUGES:
            yield self._gauge(name, text, getattr(stats, attribute))
        for name, attribute, text in _COUNTERS:
            counter = CounterMetricFamily(f"pdrt:{name}", text, labels=["model_name"])
            counter.add_metric([self._model_name], getattr(stats, attribute))
            yield counter
        yield from self._pages(stats)
        yield from self._workers(stats.workers)

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        gauge = GaugeMetricFamily(f"pdrt:{name}", text, labels=["model_name"])
        gauge.add_metric([self._model_name], value)
        return gauge

    def _pages(self, stats: EngineStats) -> Iterator[Metric]:
        pages = GaugeMetricFamily(
            "pdrt:kv_pages",
            "KV pages by state; they add up to total.",
            labels=["model_name", "state"],
        )
        for state in PAGE_STATES:
            pages.add_metric([self._model_name, state], stats.pages[state])
        pages.add_metric([self._model_name, "total"], stats.num_pages)
        yield pages
        geometry = GaugeMetricFamily(
            "pdrt:cache_config_info",
            "Geometry of the KV pool, in the labels that routers read.",
            labels=["model_name", "block_size", "num_gpu_blocks"],
        )
        geometry.add_metric([self._model_name, str(stats.page_size), str(stats.num_pages)], 1)
        yield geometry

    def _workers(self, workers: Iterable[WorkerStats]) -> Iterator[Metric]:
        labels = ["model_name", "worker", "role"]
        alive = GaugeMetricFamily("pdrt:worker_up", "1 while a worker serves.", labels=labels)
        restarts = CounterMetricFamily(
            "pdrt:worker_restarts", "Times a worker was started again.", labels=labels
        )
        faults = CounterMetricFamily(
            "pdrt:device_faults", "Times a GPU failed under a worker.", labels=labels
        )
        for worker in workers:
            values = [self._model_name, worker.name, worker.role]
            alive.add_metric(values, worker.alive)
            restarts.add_metric(values, worker.restarts)
            faults.add_metric(values, worker.faults)
        yield alive
        yield restarts
        yield faults


class RequestHistory:
    """Counters and histograms of the requests that passed through the front end."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            metric = Histogram(
                f"pdrt:{name}_seconds", text, ["model_name"], registry=registry, buckets=buckets
            )
            return metric.labels(model_name)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"pdrt:{name}", text, ["model_name", *labels], registry=registry)

        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens.").labels(model_name)
        self._tokens = TokenCollector(model_name)
        registry.register(self._tokens)
        success = counter("request_success", "Ended requests by reason.", "finished_reason")
        self._success = {reason: success.labels(model_name, reason) for reason in FINISH_REASONS}
        self._first = histogram("time_to_first_token", "Arrival to the first token.", _WAIT_BUCKETS)
        self._total = histogram("e2e_request_latency", "Arrival to the last token.", _WAIT_BUCKETS)
        self._parts = {
            "queue_time": histogram(
                "request_queue_time", "Arrival to admission by prefill.", _WAIT_BUCKETS
            ),
            "prefill_time": histogram(
                "request_prefill_time", "Admission to the first token.", _WAIT_BUCKETS
            ),
            "handoff_time": histogram(
                "request_handoff_time", "First token to decode's taking over.", _HANDOFF_BUCKETS
            ),
            "decode_time": histogram(
                "request_decode_time", "Taking over to the last token.", _WAIT_BUCKETS
            ),
        }

    def started(self, num_prompt_tokens: int, seconds: float) -> None:
        """A request gave its first token, `seconds` after its arrival."""
        self._prompt_tokens.inc(num_prompt_tokens)
        self._first.observe(seconds)

    def tokens(self, count: int, gap: float | None) -> None:
        """`count` output tokens arrived together, `gap` seconds after the ones before, if any.

        Tokens that arrive together have no gap between them.
        """
        self._tokens.count(count, gap)

    def finished(self, reason: str, metrics: RequestMetrics | None, now: float) -> None:
        """A request ended, for one of FINISH_REASONS. No metrics: it had no output.

        One of several sequences ended when all have; of their reasons abort goes before length,
        and length before stop, so that ended requests add up whatever `n` is. Latencies count where
        it ran to its end.
        """
        self._success[reason].inc()
        if metrics is None or reason not in ("stop", "length"):
            return
        self._total.observe(now - metrics.arrival_time)
        for name, histogram in self._parts.items():
            seconds = getattr(metrics, name)
            if seconds is not None:
                histogram.observe(seconds)


class Metrics:
    """One server's registry: the engine's snapshot, the requests' history, and this process."""

    def __init__(self, snapshot: Callable[[], EngineStats], model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = RequestHistory(self.registry, model_name)
        self.registry.register(EngineCollector(snapshot, model_name))
        ProcessCollector(registry=self.registry)
