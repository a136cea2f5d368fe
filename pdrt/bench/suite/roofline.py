"""Plots of kernel benches: how near each case comes to what the device gave in the same run.

roofline.svg    TFLOP/s against operations a byte, under the roofs of copy and matrix product
                (Williams, Waterman and Patterson 2009, "Roofline")
bandwidth.svg   GB/s against bytes moved, for what memory bounds: small work shows its overhead
frontier.svg    p99 gap between tokens against prompt tokens a second, from the serving bench
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pdrt.bench.suite.chart import Chart, Point, Series

Row = Mapping[str, Any]

_NOT_SHOWN = ("peers", "measure", "us", "bytes", "timing")


def plots(results: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """SVG texts by file name, of those results that have something to plot."""
    found = list(results)
    charts = {
        "roofline.svg": roofline(found),
        "bandwidth.svg": bandwidth(found),
        "frontier.svg": frontier(found),
    }
    return {name: chart.svg() for name, chart in charts.items() if chart is not None}


def roofline(results: list[Mapping[str, Any]]) -> Chart | None:
    rows = [row for row in timed_rows(results) if row.get("tflops")]
    if not rows:
        return None
    chart = Chart(
        "Arithmetic against the roofs of this run",
        "operations a byte of least traffic",
        "TFLOP/s of true work",
        log_x=True,
        log_y=True,
        series=by_op(rows, lambda row: (row["flops_a_byte"], row["tflops"])),
    )
    copy, matmul = best_yardsticks(results)
    ridge = matmul * 1e3 / copy
    lowest = min(ridge / 10, *(row["flops_a_byte"] for row in rows))
    highest = max(ridge * 4, *(row["flops_a_byte"] for row in rows))
    roof = [(lowest, lowest * copy / 1e3), (ridge, matmul), (highest, matmul)]
    chart.series.append(Series(f"copy {copy:.0f} GB/s, matmul {matmul:.0f}", roof, is_line=True))
    return chart


def bandwidth(results: list[Mapping[str, Any]]) -> Chart | None:
    rows = [row for row in timed_rows(results) if row.get("gb_s") and row.get("bytes")]
    if not rows:
        return None
    chart = Chart(
        "Bandwidth against the bytes that must move",
        "MB read and written",
        "GB/s",
        log_x=True,
        series=by_op(rows, lambda row: (row["bytes"] / 1e6, row["gb_s"])),
    )
    copy, _ = best_yardsticks(results)
    ends = [row["bytes"] / 1e6 for row in rows]
    line = [(min(ends), copy), (max(ends), copy)]
    chart.series.append(Series(f"copy_ {copy:.0f} GB/s", line, is_line=True))
    return chart


def frontier(results: list[Mapping[str, Any]]) -> Chart | None:
    points = [point for result in results for point in result.get("frontier", [])]
    if not points:
        return None
    series: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        series.setdefault(point["setup"], []).append(point)
    return Chart(
        "Gap between tokens of running streams beside arriving prompts",
        "prompt tokens a second",
        "p99 gap, ms",
        series=[
            Series(
                name,
                [(each["prompt_tok_s"], each["gap_ms"]["p99"]) for each in group],
                [as_text(each) for each in group],
            )
            for name, group in series.items()
        ],
    )


def timed_rows(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    rows = [row for result in results for row in result.get("rows", [])]
    return [row for row in rows if isinstance(row, dict) and "us" in row]


def best_yardsticks(results: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """The highest roofs that any of the results saw: GB/s and TFLOP/s."""
    seen = [result["yardsticks"] for result in results if "yardsticks" in result]
    return max(each["copy_gb_s"] for each in seen), max(each["matmul_tflops"] for each in seen)


def by_op(rows: Iterable[Row], place: Callable[[Row], Point]) -> list[Series]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["op"], []).append(row)
    return [
        Series(name, [place(row) for row in group], [as_text(row) for row in group])
        for name, group in groups.items()
    ]


def as_text(row: Row) -> str:
    shown = [f"{key} {value}" for key, value in row.items() if key not in _NOT_SHOWN]
    return ", ".join(shown)
