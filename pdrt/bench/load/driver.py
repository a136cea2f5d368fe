"""Runs a load against a server: an open loop by a clock, a closed loop by answers.

Open loop: every session has its time, and is sent then, whether or not earlier ones have been
answered. A limit of concurrency may hold it back; what it waits there counts as the server's.
Closed loop: so many users each send their next session when the last one has ended.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pdrt.bench.load.api import Target
from pdrt.bench.load.client import Client, sleep_until
from pdrt.bench.load.records import Record
from pdrt.bench.load.sessions import History, Session

Progress = Callable[[Record], None]


@dataclass(slots=True)
class Run:
    """What a load gave. Records are in the order of the load; CPU seconds are this process's."""

    records: list[Record] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def client_cpu(self) -> float:
        """Share of one core that the load generator itself took."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """Sessions, and how many may be under way. Those without a time make a closed loop."""

    sessions: Sequence[Session]
    max_concurrency: int | None = None

    @property
    def is_open(self) -> bool:
        return all(session.at is not None for session in self.sessions)


def run_load(target: Target, load: Load, progress: Progress = lambda record: None) -> Run:
    """Runs a load to its end, in an event loop of its own."""
    return asyncio.run(drive(target, load, progress))


async def drive(target: Target, load: Load, progress: Progress = lambda record: None) -> Run:
    run = Run()
    gc.collect()
    gc.freeze()  # the load's objects are not looked through again while tokens come
    async with Client(target) as client:
        driver = _Driver(client, load, progress)
        cpu, wall = time.process_time(), time.perf_counter()
        client.start = wall
        await (driver.open_loop() if load.is_open else driver.closed_loop())
        run.cpu_seconds, run.seconds = time.process_time() - cpu, time.perf_counter() - wall
        run.records = sorted(driver.records, key=lambda record: (record.session, record.turn))
    gc.unfreeze()
    for number, record in enumerate(run.records):
        record.number = number
    return run


class _Driver:
    """One run's state."""

    def __init__(self, client: Client, load: Load, progress: Progress) -> None:
        self.records: list[Record] = []
        self._client = client
        self._sessions = load.sessions
        self._limit = load.max_concurrency or len(load.sessions)
        self._places = asyncio.Semaphore(self._limit)
        self._progress = progress

    async def open_loop(self) -> None:
        tasks = []
        for number, session in sorted(enumerate(self._sessions), key=lambda pair: pair[1].at or 0):
            assert session.at is not None
            await sleep_until(self._client, session.at)
            tasks.append(asyncio.create_task(self._in_its_place(number, session, session.at)))
        await asyncio.gather(*tasks)

    async def _in_its_place(self, number: int, session: Session, at: float) -> None:
        async with self._places:
            await self._talk(number, session, at)

    async def closed_loop(self) -> None:
        waiting = iter(enumerate(self._sessions))

        async def user() -> None:
            for number, session in waiting:
                await self._talk(number, session, self._client.now())

        await asyncio.gather(*(user() for _ in range(self._limit)))

    async def _talk(self, number: int, session: Session, scheduled: float) -> None:
        """All turns of a session. What follows a failed turn is not sent, and counts as failed."""
        history, failed = History(), False
        for place, turn in enumerate(session.turns):
            record = Record(
                scheduled=scheduled,
                wanted_tokens=turn.output_tokens,
                prompt_tokens=turn.prompt_tokens or 0,
                session=number,
                turn=place,
            )
            if failed:
                record.sent = record.ended = scheduled
                record.error = "not sent: an earlier turn of its session failed"
            else:
                await sleep_until(self._client, scheduled)
                await self._client.send(turn, history, record)
            self.records.append(record)
            self._progress(record)
            failed = bool(record.error)
            history.add(turn, record.text)
            scheduled = record.ended + session.think_time
