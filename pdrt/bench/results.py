"""A run as JSON, under vLLM's names where it has one, and as a table for people.

Beside vLLM's fields there are `requests`, with the time of every read, and what says how the
figures came about: machine, versions, commit, command, the server's own version, the client's CPU
time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pdrt.bench.load.driver import Run
from pdrt.bench.load.metrics import Json, Objectives, summarize
from pdrt.bench.load.records import Record
from pdrt.bench.report import provenance, version

DETAILS = (
    "requests",
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "latencies",
    "start_times",
    "queue_times",
    "generated_texts",
    "errors",
)
TIMES_FROM = (
    "scheduled arrival: TTFT and E2EL hold the delay of sending, which is client_queue_time"
)
CACHED_BY_CHANCE = 0.05  # share of prompt tokens: random prompts may begin with the same one or two
MAX_CLIENT_CPU = 0.05  # share of a core beyond which the client disturbs what it measures


def as_result(run: Run, objectives: Objectives | None, command: str) -> Json:
    """Everything that is known of a run."""
    found = provenance(command)
    versions = found["versions"]
    assert isinstance(versions, dict)
    return {
        "bench": "serve",
        "date": time.strftime("%Y%m%d-%H%M%S"),
        **found,
        "versions": {**versions, "aiohttp": version("aiohttp"), "pdrt": version("pdrt")},
        "times_from": TIMES_FROM,
        "client_cpu": run.client_cpu,
        "goodput": dict(objectives.limits) if objectives else None,
        **summarize(run.records, objectives),
        **details(run.records),
    }


def details(records: Sequence[Record]) -> Json:
    """One entry a request; null where a failed request has no such time."""
    return {
        "input_lens": [each.prompt_tokens for each in records],
        "output_lens": [each.output_tokens for each in records],
        "ttfts": [each.ttft if each.completed else None for each in records],
        "itls": [each.gaps if each.completed else [] for each in records],
        "latencies": [each.e2el if each.completed else None for each in records],
        "start_times": [each.sent for each in records],
        "queue_times": [each.delay for each in records],
        "generated_texts": [each.text for each in records],
        "errors": [each.error for each in records],
        "requests": [each.as_json() for each in records],
    }


def as_table(result: Mapping[str, Any]) -> str:
    """What a person wants to see first."""
    lines = [*_counts(result), "", f"{'ms':<8}" + "".join(f"{each:>10}" for each in COLUMNS)]
    for name in ("ttft", "tpot", "itl", "e2el", "client_queue_time"):
        cells = (result[f"{column}_{name}_ms"] for column in COLUMNS)
        label = "delay" if name == "client_queue_time" else name.upper()
        lines.append(f"{label:<8}" + "".join(_cell(each) for each in cells))
    return "\n".join([*lines, *_warnings(result)])


COLUMNS = ("mean", "median", "p90", "p95", "p99")


def _cell(value: float | None) -> str:
    return f"{'-':>10}" if value is None else f"{value:>10.2f}"


def _counts(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{result['completed']} completed, {result['failed']} failed in {result['duration']:.2f} s;"
        f" {result['total_input_tokens']} tokens in, {result['total_output_tokens']} out",
        f"{result['request_throughput']:.3f} requests/s, {result['output_throughput']:.2f} output "
        f"tok/s, {result['total_token_throughput']:.2f} tok/s in all; at most "
        f"{result['max_concurrent_requests']} at once",
    ]
    if result["goodput"]:
        limits = ", ".join(f"{name} {limit:g} ms" for name, limit in result["goodput"].items())
        lines.append(
            f"goodput {result['request_goodput']:.3f} requests/s: {result['slo_attainment']:.1%} "
            f"within {limits}"
        )
    return lines


def _warnings(result: Mapping[str, Any]) -> list[str]:
    check = result["token_check"]
    lines = [f"failed {count} times: {name}" for name, count in result["failures"].items()]
    if check["wrong"]:
        lines.append(f"tokens counted are not those generated in requests {check['wrong']}")
    if check["unverified"]:
        lines.append(f"{check['unverified']} requests had no usage: their tokens are unverified")
    cached, prompts = result["total_cached_tokens"] or 0, result["total_input_tokens"]
    if result.get("dataset") == "random" and cached > CACHED_BY_CHANCE * prompts:
        lines.append(
            f"{cached} of {prompts} prompt tokens came out of the server's prefix cache: it knows "
            "the prompts from a run before (restart it, or give another --seed), or a chat "
            "template begins them all"
        )
    if result["client_cpu"] > MAX_CLIENT_CPU:
        lines.append(f"the client took {result['client_cpu']:.1%} of a core itself")
    return ["", *lines] if lines else []
