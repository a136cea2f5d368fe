"""When requests arrive in an open loop: seconds after the start, whatever the server does.

    poisson    independent users; waits are exponential
    gamma      waits with `burstiness` as the gamma's shape: below 1 they clump, above 1 they even
               out, 1 is poisson (vLLM's --burstiness)
    burst      groups of `burst_size` arrive together, the groups at poisson times
    constant   evenly spaced

An infinite rate is a queue that is full at the start. Times of a trace are its own: `traces`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pdrt.errors import ConfigError

Process = Literal["poisson", "gamma", "burst", "constant"]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A process of arrivals with a mean rate in requests a second.

    Raises:
        ConfigError: at construction, if a number is out of range.
    """

    process: Process = "poisson"
    rate: float = math.inf
    burstiness: float = 1.0
    burst_size: int = 8

    def __post_init__(self) -> None:
        if self.process not in get_args(Process):
            raise ConfigError(
                f"--arrivals is {self.process!r}; give one of {', '.join(get_args(Process))}"
            )
        if not self.rate > 0:
            raise ConfigError(f"--request-rate is {self.rate}; give requests a second, or inf")
        if not 0 < self.burstiness < math.inf:
            raise ConfigError(f"--burstiness is {self.burstiness}; give a number above 0")
        if self.burst_size < 1:
            raise ConfigError(f"--burst-size is {self.burst_size}; give 1 or more")

    def times(self, count: int, rng: np.random.Generator) -> list[float]:
        """Of `count` requests, ascending from 0."""
        if math.isinf(self.rate):
            return [0.0] * count
        if self.process == "burst":
            groups = self._cumulated(-(-count // self.burst_size), self.rate / self.burst_size, rng)
            return [groups[number // self.burst_size] for number in range(count)]
        return self._cumulated(count, self.rate, rng)

    def _cumulated(self, count: int, rate: float, rng: np.random.Generator) -> list[float]:
        times = np.cumsum(self._waits(count, rate, rng))
        return [float(at) for at in times - times[:1]]

    def _waits(self, count: int, rate: float, rng: np.random.Generator) -> np.ndarray:
        if self.process == "constant":
            return np.full(count, 1 / rate)
        if self.process == "gamma":
            return rng.gamma(self.burstiness, 1 / (rate * self.burstiness), count)
        return rng.exponential(1 / rate, count)
