"""A process that loads the device like decode or like prefill, and times its steps. See Child.

    load_child.py SOCKET DEVICE [SCALE]

Decode is bound by memory: a step reads a large buffer in 32 kernels. Prefill is bound by
arithmetic: a chunk of n tokens goes through 32 pairs of linears of phi-2's size. SCALE divides all
sizes, for tests on the host, where DEVICE is "cpu".
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from choreography import serve

NUM_LAYERS = 32
HIDDEN = 2560  # phi-2
DECODE_BYTES = 2 << 30  # a step reads this much: about half a millisecond on a Hopper card


class Commands:
    """The methods are the commands."""

    def __init__(self, device: str, scale: int) -> None:
        self._device = device
        self._scale = scale
        self._dtype = torch.float32 if device == "cpu" else torch.bfloat16
        self._step: Callable[[], None]

    def be_decode(self) -> None:
        size = (NUM_LAYERS, DECODE_BYTES // 4 // NUM_LAYERS // self._scale)
        buffers = torch.rand(size, device=self._device)

        def step() -> None:
            for layer in buffers:
                layer.sum()

        self._step = step
        self._warm_up()

    def be_prefill(self, tokens: int) -> None:
        hidden = HIDDEN // self._scale
        up = torch.rand(4, hidden, 4 * hidden, device=self._device, dtype=self._dtype)
        down = torch.rand(4, 4 * hidden, hidden, device=self._device, dtype=self._dtype)
        rows = torch.rand(tokens, hidden, device=self._device, dtype=self._dtype)

        def chunk() -> None:
            for layer in range(NUM_LAYERS):
                torch.matmul(torch.matmul(rows, up[layer % 4]), down[layer % 4])

        self._step = chunk
        self._warm_up()

    def run(self, seconds: float) -> dict[str, float]:
        """Milliseconds from launch to completion, step after step with nothing in between."""
        times, deadline = [], time.perf_counter() + seconds
        while not times or time.perf_counter() < deadline:
            start = time.perf_counter()
            self._step()
            self._finish()
            times.append((time.perf_counter() - start) * 1e3)
        taken = torch.tensor(times, dtype=torch.float64)
        quantiles = {name: float(taken.quantile(q)) for name, q in QUANTILES.items()}
        return {"steps": len(times), **{name: round(ms, 4) for name, ms in quantiles.items()}}

    def _warm_up(self) -> None:
        for _ in range(3):
            self._step()
        self._finish()

    def _finish(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)


QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "max_ms": 1.0}

if __name__ == "__main__":
    serve(Commands(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1))
