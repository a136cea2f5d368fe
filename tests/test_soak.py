"""A minute of load on a real engine, with clients that leave and workers that are killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

import pdrt
from tests.processes import eventually

pytestmark = [pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(600)]

SECONDS = 60.0
NUM_CLIENTS = 24
PROMPTS = [[(i * 7 + j * (i % 5 + 1)) % 250 for j in range(1 + 13 * i)] for i in range(16)]
MAX_TOKENS = 150


class Load:
    """Clients that ask, compare and sometimes leave; somebody who kills workers."""

    def __init__(self, engine: pdrt.Engine, expected: list[list[int]]) -> None:
        self.engine = engine
        self.expected = expected
        self.random = random.Random(5)
        self.deadline = time.monotonic() + SECONDS
        self.num_finished = self.num_left = self.num_killed = 0

    async def client(self) -> None:
        while time.monotonic() < self.deadline:
            i = self.random.randrange(len(PROMPTS))
            length = self.random.randint(1, MAX_TOKENS)
            leaves = self.random.random() < 0.25
            await self.ask(i, length, self.random.randint(0, length) if leaves else None)

    async def ask(self, i: int, length: int, leaves_after: int | None) -> None:
        params = {"temperature": 0.0, "max_tokens": length, "ignore_eos": True}
        stream = self.engine.async_generate(PROMPTS[i], params)
        tokens: list[int] = []
        async for output in stream:
            tokens = output.outputs[0].token_ids
            assert tokens == self.expected[i][: len(tokens)], (i, len(tokens))
            if leaves_after is not None and len(tokens) >= leaves_after:
                await stream.aclose()
                self.num_left += 1
                return
        assert len(tokens) == length
        self.num_finished += 1

    async def killer(self) -> None:
        while time.monotonic() < self.deadline - 10.0:
            await asyncio.sleep(self.random.uniform(4.0, 7.0))
            worker = self.random.choice(self.engine.metrics().workers)
            if worker.alive:
                os.kill(worker.pid, self.random.choice([signal.SIGKILL, signal.SIGSEGV]))
                self.num_killed += 1

    async def run(self) -> None:
        await asyncio.gather(self.killer(), *(self.client() for _ in range(NUM_CLIENTS)))


@pytest.mark.parametrize("mode", ["separated", "unified"])
def test_under_load_and_deaths_every_token_is_right_and_nothing_leaks(
    tiny_llama: Path, mode: str
) -> None:
    with pdrt.Engine(
        str(tiny_llama),
        disaggregation_mode=mode,
        max_model_len=400,
        num_pages=60,  # so few that requests preempt each other
        max_num_seqs=16,
        log_level="error",
    ) as engine:
        params = {"temperature": 0.0, "max_tokens": MAX_TOKENS, "ignore_eos": True}
        expected = [out.outputs[0].token_ids for out in engine.generate(PROMPTS, params)]
        load = Load(engine, expected)
        asyncio.run(load.run())

        def is_idle() -> bool:
            stats = engine.metrics()
            return stats.pages["free"] + stats.pages["cached"] == stats.num_pages

        assert eventually(is_idle, 10.0), engine.metrics()
        stats = engine.metrics()
        assert stats.audit_violations == 0 and stats.handoff_bytes == 0
        assert stats.num_preemptions > 0 and load.num_killed > 3
        assert load.num_finished > 50 and load.num_left > 10
        print(load.num_finished, load.num_left, load.num_killed, stats)
