"""How long a call takes on a device whose cache does not hold its data yet.

    events    one call at a time between two CUDA events, after the cache was emptied
    graph     several calls, each on data of its own, in one CUDA graph: for calls so short that
              the gap between two launches would count; the data together exceeds the cache

Work is given to the GPU ahead of time, behind a spinning kernel, so that a slow host is not in the
figures. Without a GPU the same calls are timed by the host's clock, which tells that a bench runs
and nothing about a kernel. Yardsticks are what the device was seen to give just before;
`python -m pdrt.bench.gpu_timing` prints them alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pdrt.bench.report import driver_version, emit

Call = Callable[[], object]

CACHE_MULTIPLE = 5  # data of this many caches' size is what no cache still holds
HOST_CACHE = 64 << 20  # bytes; more than the cache share of a core
WARM_UPS = 3
SPIN_CYCLES_A_SECOND = 2e9  # about the clock of the SMs; only how long a spin lasts depends on it


@dataclass(frozen=True, slots=True)
class Times:
    """Percentiles of one call's time, microseconds; `count` repetitions."""

    p20: float
    p50: float
    p80: float
    count: int


@dataclass(frozen=True, slots=True)
class Yardsticks:
    """What the device was seen to give: bytes read and written by copy_, and a matrix product."""

    copy_gb_s: float
    matmul_tflops: float

    def rounded(self) -> dict[str, float]:
        return {key: round(value, 1) for key, value in asdict(self).items()}


class Stopwatch(Protocol):
    """Times calls on one device."""

    device: torch.device
    cache_bytes: int

    def events(self, call: Call, repeats: int) -> Times:
        """One call at a time, each with an emptied cache."""

    def graph(self, calls: Sequence[Call], repeats: int) -> Times:
        """The mean of `calls` within each of several runs through all of them."""


def stopwatch(device: torch.device) -> Stopwatch:
    """For a device, which is the current one from then on, as events and streams want it."""
    if device.type != "cuda":
        return HostStopwatch(device)
    if device.index is not None:
        torch.cuda.set_device(device)
    return CudaStopwatch(device)


class CudaStopwatch:
    """On the current stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cache_bytes = int(torch.cuda.get_device_properties(device).L2_cache_size)
        self._filler = torch.ones(CACHE_MULTIPLE * self.cache_bytes // 4, device=device)
        self._sum = torch.zeros((), device=device)

    def events(self, call: Call, repeats: int) -> Times:
        return self._timed(call, repeats, self._empty_cache)

    def graph(self, calls: Sequence[Call], repeats: int) -> Times:
        graph = captured(calls)
        whole = self._timed(graph.replay, repeats, before=lambda: None)
        share = 1 / len(calls)
        return Times(whole.p20 * share, whole.p50 * share, whole.p80 * share, whole.count)

    def _timed(self, call: Call, repeats: int, before: Call) -> Times:
        launch_seconds = self._warmed_up(call, before)
        starts, ends = _events(repeats), _events(repeats)
        self._spin(2 * repeats * launch_seconds)
        for start, end in zip(starts, ends, strict=True):
            before()
            start.record()
            call()
            end.record()
        torch.cuda.synchronize(self.device)
        pairs = zip(starts, ends, strict=True)
        return times_of([start.elapsed_time(end) * 1e3 for start, end in pairs])

    def _empty_cache(self) -> None:
        """By reading: lines that were written would be stored during the call that is timed."""
        torch.sum(self._filler, dim=0, out=self._sum)

    def _warmed_up(self, call: Call, before: Call) -> float:
        """Seconds that the host needs to give one repetition to the device."""
        for _ in range(WARM_UPS):
            before()
            call()
        torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        before()
        call()
        took = time.perf_counter() - start
        torch.cuda.synchronize(self.device)
        return took

    def _spin(self, seconds: float) -> None:
        cycles = int(min(seconds, 0.2) * SPIN_CYCLES_A_SECOND)
        torch.cuda._sleep(max(cycles, 1))


class HostStopwatch:
    """The host's clock, where there is no GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cache_bytes = HOST_CACHE
        self._filler = torch.ones(HOST_CACHE // 4)

    def events(self, call: Call, repeats: int) -> Times:
        return times_of([self._cold_microseconds(call) for _ in range(repeats)])

    def graph(self, calls: Sequence[Call], repeats: int) -> Times:
        def mean() -> float:
            return sum(_host_microseconds(call) for call in calls) / len(calls)

        return times_of([mean() for _ in range(repeats)])

    def _cold_microseconds(self, call: Call) -> float:
        self._filler.sum()
        return _host_microseconds(call)


def captured(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    """One graph of all calls, each of which has run before, as capture wants it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def num_rotations(bytes_of_one: int, device: torch.device, most: int = 64) -> int:
    """How many sets of inputs a graph must rotate through, so that none is still in the cache."""
    if device.type != "cuda":
        return 1  # nothing is measured there
    return rotations_past(
        int(torch.cuda.get_device_properties(device).L2_cache_size), bytes_of_one, most
    )


def rotations_past(cache_bytes: int, bytes_of_one: int, most: int) -> int:
    return max(1, min(most, -(-CACHE_MULTIPLE * cache_bytes // bytes_of_one)))


def times_of(microseconds: Sequence[float]) -> Times:
    p20, p50, p80 = np.percentile(np.asarray(microseconds), [20, 50, 80])
    return Times(float(p20), float(p50), float(p80), len(microseconds))


def measure_yardsticks(watch: Stopwatch) -> Yardsticks:
    """The limits of this device in this run, with random data: zeros need less power.

    Copy: bytes read plus bytes written, bfloat16. Matrix product: 2 n^3 operations, bfloat16.
    """
    on_gpu = watch.device.type == "cuda"
    num_elements, side = (512 << 20, 8192) if on_gpu else (4 << 20, 256)
    source = random_bits(num_elements, watch.device)
    target = torch.empty_like(source)
    copy = watch.events(lambda: target.copy_(source), repeats=20)
    left, right = (_normal(side, watch.device) for _ in range(2))
    out = torch.empty_like(left)
    matmul = watch.events(lambda: torch.mm(left, right, out=out), repeats=20)
    return Yardsticks(
        copy_gb_s=2 * source.nbytes / copy.p50 / 1e3,
        matmul_tflops=2 * side**3 / matmul.p50 / 1e6,
    )


def gpu_facts(device: torch.device) -> dict[str, object] | None:
    """The GPU's name, compute capability, SMs, cache, memory and driver; None of another device."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "sms": properties.multi_processor_count,
        "cache_mb": properties.L2_cache_size >> 20,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "driver": driver_version(),
    }


def random_bits(num_elements: int, device: torch.device) -> Tensor:
    """Random bfloat16 in [-1, 1), made in place: no second copy of a large buffer."""
    return torch.empty(num_elements, dtype=torch.bfloat16, device=device).uniform_(-1, 1)


def _normal(side: int, device: torch.device) -> Tensor:
    return torch.randn(side, side, device=device, dtype=torch.bfloat16)


def _events(count: int) -> list[torch.cuda.Event]:
    return [torch.cuda.Event(enable_timing=True) for _ in range(count)]


def _host_microseconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6


if __name__ == "__main__":
    found = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limits = measure_yardsticks(stopwatch(found)).rounded()
    emit({"gpu": gpu_facts(found), "yardsticks": limits}, None)
