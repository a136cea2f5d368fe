"""The registry: names that dashboards know, and numbers that add up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from pdrt.metrics import FINISH_REASONS, PAGE_STATES, EngineStats, Metrics, WorkerStats
from pdrt.request import RequestMetrics
from pdrt.token_metrics import GAP_BUCKETS, TokenCollector

STATS = EngineStats(
    num_running=3,
    num_waiting=2,
    page_size=16,
    num_pages=100,
    pages=dict(zip(PAGE_STATES, (50, 10, 5, 20, 14, 1), strict=True)),
    num_handoffs=7,
    workers=(WorkerStats("decode-0", "decode", 41, alive=True, restarts=2, faults=1),),
)


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"model_name": "tiny", **labels})


def test_a_snapshot_is_taken_at_each_scrape_and_not_before() -> None:
    taken: list[int] = []

    def snapshot() -> EngineStats:
        taken.append(1)
        return replace(STATS, num_running=len(taken))

    metrics = Metrics(snapshot, "tiny")
    assert not taken
    assert sample(metrics, "pdrt:num_requests_running") == 1
    assert sample(metrics, "pdrt:num_requests_running") == 2


def test_pages_by_state_add_up_to_total() -> None:
    metrics = Metrics(lambda: STATS, "tiny")
    states = [sample(metrics, "pdrt:kv_pages", state=state) for state in PAGE_STATES]
    assert states == [50, 10, 5, 20, 14, 1]
    assert sample(metrics, "pdrt:kv_pages", state="total") == 100


def test_cached_pages_do_not_count_as_used() -> None:
    metrics = Metrics(lambda: STATS, "tiny")
    assert sample(metrics, "pdrt:kv_cache_usage_perc") == pytest.approx(0.36)


def test_each_worker_has_its_state_and_restarts() -> None:
    metrics = Metrics(lambda: STATS, "tiny")
    labels = {"worker": "decode-0", "role": "decode"}
    assert sample(metrics, "pdrt:worker_up", **labels) == 1
    assert sample(metrics, "pdrt:worker_restarts_total", **labels) == 2
    assert sample(metrics, "pdrt:device_faults_total", **labels) == 1


def test_names_have_the_suffixes_that_tools_look_for() -> None:
    text = generate_latest(Metrics(lambda: STATS, "tiny").registry).decode()
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "cache_config_info",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "prompt_tokens_total",
        "generation_tokens_total",
        "request_success_total",
        "num_preemptions_total",
        "handoff_bytes_total",
        "audit_violations_total",
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_bucket",
        "e2e_request_latency_seconds_bucket",
        "request_queue_time_seconds_bucket",
        "request_prefill_time_seconds_bucket",
        "request_handoff_time_seconds_bucket",
        "request_decode_time_seconds_bucket",
    ):
        assert f"\npdrt:{name}{{" in text, name


def test_every_finish_reason_is_there_from_the_start() -> None:
    metrics = Metrics(lambda: STATS, "tiny")
    for reason in FINISH_REASONS:
        assert sample(metrics, "pdrt:request_success_total", finished_reason=reason) == 0


def test_tokens_that_come_together_have_no_gap_between_them() -> None:
    metrics = Metrics(lambda: STATS, "tiny")
    metrics.requests.started(num_prompt_tokens=5, seconds=0.5)
    metrics.requests.tokens(1, None)
    metrics.requests.tokens(3, 0.3)
    assert sample(metrics, "pdrt:prompt_tokens_total") == 5
    assert sample(metrics, "pdrt:generation_tokens_total") == 4
    assert sample(metrics, "pdrt:inter_token_latency_seconds_count") == 3
    assert sample(metrics, "pdrt:inter_token_latency_seconds_sum") == pytest.approx(0.3)


def test_gaps_have_the_samples_of_the_librarys_own_histogram() -> None:
    registry, collector = CollectorRegistry(), TokenCollector("tiny")
    own = Histogram(
        "pdrt:inter_token_latency_seconds",
        "Gaps between output tokens.",
        ["model_name"],
        registry=registry,
        buckets=GAP_BUCKETS,
    ).labels("tiny")
    for gap in (0.0005, 0.001, 0.0011, 0.3, 10.0, 99.0):
        own.observe(gap)
        collector.count(1, gap)
    (theirs,) = registry.collect()
    _, ours = collector.collect()
    assert ours.samples == [each for each in theirs.samples if not each.name.endswith("_created")]


def test_only_requests_that_ran_to_their_end_have_latencies() -> None:
    metrics = Metrics(lambda: STATS, "tiny")
    times = RequestMetrics(arrival_time=10.0, queue_time=0.25, prefill_time=0.5)
    metrics.requests.finished("abort", times, now=12.0)
    assert sample(metrics, "pdrt:e2e_request_latency_seconds_count") == 0
    metrics.requests.finished("stop", times, now=12.0)
    assert sample(metrics, "pdrt:e2e_request_latency_seconds_sum") == pytest.approx(2.0)
    assert sample(metrics, "pdrt:request_queue_time_seconds_sum") == pytest.approx(0.25)
    assert sample(metrics, "pdrt:request_handoff_time_seconds_count") == 0
    assert sample(metrics, "pdrt:request_success_total", finished_reason="abort") == 1
