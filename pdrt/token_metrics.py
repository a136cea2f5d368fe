"""Output tokens and the gaps between them, counted as cheaply as there are many of them.

A histogram of the Prometheus client takes a dozen calls and two locks for each value. Here a token
is three additions, and the samples are made when somebody asks. Counted and read in one event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

# The buckets that dashboards of inference servers expect; each holds its upper bound.
# fmt: off
GAP_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 10.0,
)
# fmt: on
_BOUNDS = (*map(floatToGoString, GAP_BUCKETS), "+Inf")


class TokenCollector(Collector):
    """Of one server, since its start."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._num_tokens = 0
        self._gaps = [0] * len(_BOUNDS)  # in each bucket, without those below it
        self._gap_seconds = 0.0

    def count(self, tokens: int, gap: float | None) -> None:
        """`tokens` arrived together, `gap` seconds after the ones before, if there are any.

        Tokens that arrive together have no gap between them.
        """
        self._num_tokens += tokens
        self._gaps[0] += tokens - 1
        if gap is not None:
            self._gaps[bisect_left(GAP_BUCKETS, gap)] += 1
            self._gap_seconds += gap

    def describe(self) -> Iterable[Metric]:
        """Nothing, as of the engine's collector."""
        return ()

    def collect(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily(
            "pdrt:generation_tokens", "Output tokens.", labels=["model_name"]
        )
        tokens.add_metric([self._model_name], self._num_tokens)
        yield tokens
        gaps = HistogramMetricFamily(
            "pdrt:inter_token_latency_seconds",
            "Gaps between output tokens.",
            labels=["model_name"],
        )
        counts = zip(_BOUNDS, accumulate(self._gaps), strict=True)
        gaps.add_metric([self._model_name], list(counts), self._gap_seconds)
        yield gaps
