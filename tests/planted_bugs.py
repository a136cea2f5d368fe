"""Simulations with a bug each, to see that a search finds it and its command shows it again."""

from __future__ import annotations

import os
from collections.abc import Collection

from pdrt.router import Router
from pdrt.sched.plan import Plan
from tests.simulated_server import SimulatedServer
from tests.simulation import Simulation
from tests.toy_model import ToyRow, ToyRunner, ToyStep


class _WrongRunner(ToyRunner):
    def sample(self, values: list[int], end: int) -> int:
        return super().sample(values, end) ^ (end == 13 and values[-1] % 11 == 0)


class WrongToken(Simulation):
    """One token in hundreds is wrong."""

    runner_type = _WrongRunner


class _CarelessRunner(ToyRunner):
    def _through_the_cache(self, row: ToyRow, values: list[int]) -> list[int]:
        kept = dict(self._kv)
        super()._through_the_cache(row, values)
        if row.end == 13:
            self._kv.clear()
            self._kv.update(kept)
        return values


class LostKV(Simulation):
    """What a step that ends at position 13 computes is not kept."""

    runner_type = _CarelessRunner


class _LateRunner(ToyRunner):
    _late: list[tuple[int, int]] = []

    def _spoil(self, places: list[tuple[int, int]]) -> None:
        self._late = places

    def launch(self, plan: Plan) -> ToyStep:
        super()._spoil(self._late)
        return super().launch(plan)


class LateWrite(Simulation):
    """What a row writes that nobody wants is written after its step was read."""

    runner_type = _LateRunner


class _ForgetfulRouter(Router):
    def worker_down(self, instance: int, held: Collection[int]) -> None:
        self.tick()


class _ForgetfulServer(SimulatedServer):
    router_type = _ForgetfulRouter


class ForgottenSlot(Simulation):
    """The router believes that a worker which is gone still lives and knows of its slots."""

    server_type = _ForgetfulServer


class _EndlessRunner(ToyRunner):
    def sample(self, values: list[int], end: int) -> int:
        while end == 13 and values[-1] % 11 == 0:
            pass
        return super().sample(values, end)


class EndlessStep(Simulation):
    """A step that never ends."""

    cpu_seconds = 0.3
    runner_type = _EndlessRunner


class _CrashingRunner(ToyRunner):
    def sample(self, values: list[int], end: int) -> int:
        if end == 13 and values[-1] % 11 == 0:
            os.abort()
        return super().sample(values, end)


class Crash(Simulation):
    """The process of the search dies."""

    runner_type = _CrashingRunner
