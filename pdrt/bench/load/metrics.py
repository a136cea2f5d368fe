"""Figures of a run from its records, under the names of vLLM's result files.

    ttft    scheduled arrival to first token
    tpot    (last token - first token) / (output tokens - 1), of a request with at least two
    itl     gaps between consecutive tokens, of all requests together
    e2el    scheduled arrival to last token

Only completed requests have times; failed ones count in `failed`, in `failures` by name, and as
missed objectives. A figure that no request gave is null, never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pdrt.bench.load.records import Record
from pdrt.errors import ConfigError

Json = dict[str, object]

PERCENTILES = (90, 95, 99)
OBJECTIVES = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True)
class Objectives:
    """Milliseconds that a good request does not exceed, by OBJECTIVES' names."""

    limits: Mapping[str, float]

    @classmethod
    def parse(cls, pairs: Sequence[str]) -> Objectives:
        """From "ttft:500" and the like.

        Raises:
            ConfigError: a pair has another form, an unknown name or a number not above 0.
        """
        limits: dict[str, float] = {}
        for pair in pairs:
            name, _, value = pair.partition(":")
            try:
                limits[name] = float(value)
            except ValueError:
                limits[name] = 0.0
            if name not in OBJECTIVES or not limits[name] > 0:
                raise ConfigError(
                    f"--goodput has {pair!r}; give NAME:MILLISECONDS, NAME one of "
                    f"{', '.join(OBJECTIVES)}"
                )
        return cls(limits)

    def met_by(self, record: Record) -> bool:
        return self.are_kept(times_ms(record))

    def are_kept(self, times: Mapping[str, float] | None) -> bool:
        """By a request with these times; None: it failed."""
        if times is None:
            return False
        return all(times[name] <= limit for name, limit in self.limits.items())


def times_ms(record: Record) -> dict[str, float] | None:
    """By OBJECTIVES' names; None: it failed. A request of one token has no TPOT to miss."""
    if not record.completed:
        return None
    seconds = {"ttft": record.ttft, "tpot": record.tpot or 0.0, "e2el": record.e2el}
    return {name: round(value * 1e3, 3) for name, value in seconds.items()}


def summarize(records: Sequence[Record], objectives: Objectives | None = None) -> Json:
    """All figures of a run. Duration: from the first scheduled arrival to the last end."""
    done = [record for record in records if record.completed]
    duration = duration_of(records)
    tokens_in = sum(record.prompt_tokens for record in done)
    tokens_out = sum(record.output_tokens for record in done)
    cached = [each.cached_tokens for each in done if each.cached_tokens is not None]
    return {
        "duration": duration,
        "completed": len(done),
        "failed": len(records) - len(done),
        "failures": dict(Counter(record.error for record in records if record.error)),
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "total_cached_tokens": sum(cached) if cached else None,
        "request_throughput": len(done) / duration,
        "output_throughput": tokens_out / duration,
        "total_token_throughput": (tokens_in + tokens_out) / duration,
        "max_output_tokens_per_s": busiest_second(done),
        "max_concurrent_requests": most_at_once(records),
        **_goodput(records, objectives, duration),
        **_times("ttft", [record.ttft for record in done]),
        **_times("tpot", [tpot for record in done if (tpot := record.tpot) is not None]),
        **_times("itl", [gap for record in done for gap in record.gaps]),
        **_times("e2el", [record.e2el for record in done]),
        **_times("client_queue_time", [record.delay for record in done]),
        "token_check": check_tokens(records),
    }


def duration_of(records: Sequence[Record]) -> float:
    return max(each.ended for each in records) - min(each.scheduled for each in records)


def _goodput(records: Sequence[Record], objectives: Objectives | None, duration: float) -> Json:
    if objectives is None:
        return {"request_goodput": None, "slo_attainment": None}
    good = sum(objectives.met_by(record) for record in records)
    return {"request_goodput": good / duration, "slo_attainment": good / len(records)}


def _times(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    """mean, median, std and percentiles in milliseconds, as `mean_ttft_ms`, `p99_ttft_ms`..."""
    labels = ["mean", "median", "std", *(f"p{p}" for p in PERCENTILES)]
    if not seconds:
        return {f"{label}_{name}_ms": None for label in labels}
    ms = np.asarray(seconds) * 1e3
    values = [ms.mean(), np.median(ms), ms.std(), *np.percentile(ms, PERCENTILES)]
    return {f"{label}_{name}_ms": float(value) for label, value in zip(labels, values, strict=True)}


def busiest_second(records: Iterable[Record]) -> float:
    """Most output tokens that came within one whole second of the run."""
    seconds: Counter[int] = Counter()
    for record in records:
        for at, count in zip(record.chunk_times, record.chunk_tokens, strict=True):
            seconds[int(at)] += count
    return float(max(seconds.values(), default=0))


def most_at_once(records: Iterable[Record]) -> int:
    """Most requests that were sent and had not ended at one moment."""
    changes = sorted(
        change for record in records for change in ((record.sent, 1), (record.ended, -1))
    )
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


def check_tokens(records: Iterable[Record]) -> Json:
    """Whether the tokens counted are those generated.

    A completed request is `wrong` if what came in chunks is not what the server says in its usage,
    or if it has another number of tokens than it asked for although it ended for its length, or
    although the end of text was to be ignored. Where the server gives no usage, nothing vouches for
    the count: `unverified`.
    """
    done = [record for record in records if record.completed]
    wrong = [record.number for record in done if _is_wrong(record)]
    unverified = sum(record.usage_tokens is None for record in done)
    counted = Counter(record.counted for record in done)
    return {
        "checked": len(done) - unverified,
        "unverified": unverified,
        "wrong": wrong,
        "counted_by": dict(counted),
    }


def _is_wrong(record: Record) -> bool:
    has_length = record.is_exact or record.finish_reason == "length"
    another = has_length and record.output_tokens != record.wanted_tokens
    return another or record.seen_tokens != record.output_tokens
