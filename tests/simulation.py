"""A server in one process, with real ledger, router, schedulers and workers, and a toy model.

Sockets, processes and clocks are replaced by a seeded choice of what happens next: a frame arrives,
a worker takes a turn, the router ticks, the keeper sweeps, a client leaves, a worker dies in the
middle of a step and is reaped some time later. A failing seed shows the same run again.

The toy model's KV of position i is a hash of tokens 0..i, and its next token follows from that of
the last position. Each step first checks all KV that it reads, so a page that was lost, shared by
mistake or overwritten is found where it is read.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from pdrt._C import Ledger
from pdrt.messages import Role
from pdrt.request import Request, SamplingParams
from pdrt.sched.plan import Plan, Result, Sampled
from tests.in_process import Client, Incarnation, InProcessServer

VOCABULARY = 5
EOS = 0
MODULUS = (1 << 61) - 1


def chain(tokens: list[int]) -> list[int]:
    """The toy model's KV of each position."""
    values, value = [], 1
    for token in tokens:
        value = (value * 1_000_003 + token + 1) % MODULUS
        values.append(value)
    return values


def next_token(value: int) -> int:
    return (value >> 7) % VOCABULARY


def expected_output(request: Request) -> list[int]:
    """What the request must produce, whatever happens to it."""
    tokens, output = list(request.prompt_token_ids), list[int]()
    while len(output) < request.max_tokens:
        output.append(next_token(chain(tokens + output)[-1]))
        if output[-1] == EOS and not request.params.ignore_eos:
            break
    return output


class Killed(Exception):
    """The worker dies here."""


class ToyRunner:
    """Computes plans with the toy model on KV that all workers share."""

    def __init__(self, ledger: Ledger, kv: dict[tuple[int, int], int]) -> None:
        self._ledger = ledger
        self._kv = kv  # (page, offset) -> value
        self.rows_until_death: int | None = None

    def run(self, plan: Plan) -> list[Result]:
        return [Result(self._row(row.slot, row.start, row.end, row.samples)) for row in plan.rows]

    def _row(self, slot: int, start: int, end: int, samples: bool) -> Sampled | None:
        size = self._ledger.page_size
        pages = self._ledger.page_table([slot])[0]
        values = chain(self._ledger.tokens(slot, 0, end).tolist())
        for i in range(start):
            place = (int(pages[i // size]), i % size)
            assert self._kv.get(place) == values[i], f"slot {slot} reads another's KV at {place}"
        for i in range(start, end):
            self._kv[int(pages[i // size]), i % size] = values[i]
        if self.rows_until_death is not None:
            self.rows_until_death -= 1
            if self.rows_until_death < 0:
                raise Killed
        return Sampled(next_token(values[-1]), -float(end)) if samples else None


@dataclass(frozen=True)
class Setup:
    """One small server and its load."""

    seed: int
    unified: bool = False
    num_prefill: int = 1
    num_decode: int = 1
    page_size: int = 4
    num_pages: int = 8
    num_slots: int = 4
    max_model_len: int = 24
    max_num_seqs: int = 4
    budget: int = 8
    sealed_bound: int = 2
    num_requests: int = 6
    shared_prefix: int = 0
    deaths: int = 0
    aborts: int = 0


def check(client: Client) -> None:
    """Ended once; every token right; all of them unless the client left."""
    assert client.last is not None, f"{client.request.request_id} was never ended"
    assert client.last.error is None, client.last.error
    expected = expected_output(client.request)
    assert client.tokens == expected[: len(client.tokens)], "wrong tokens"
    if client.last.finish_reason != "abort":
        assert client.tokens == expected, "tokens are missing"


class Simulation:
    """One run; `check_run` raises AssertionError where a promise is broken."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.random = random.Random(setup.seed)
        self.ledger = Ledger.create(
            num_pages=setup.num_pages,
            page_size=setup.page_size,
            num_slots=setup.num_slots,
            max_model_len=setup.max_model_len,
            sealed_bound=min(setup.sealed_bound, setup.num_slots),
        )
        self.kv: dict[tuple[int, int], int] = {}
        self.server = InProcessServer(
            self.ledger,
            self._roles(),
            lambda holder: ToyRunner(self.ledger, self.kv),
            budget=setup.budget,
            max_num_seqs=setup.max_num_seqs,
            eos_token_ids=[EOS],
        )
        self.router = self.server.router
        self.clients = [Client(self._request(i)) for i in range(setup.num_requests)]
        self.arriving = deque(self.clients)
        self.deaths, self.aborts = setup.deaths, setup.aborts

    # -- the world --------------------------------------------------------------------------------

    def _roles(self) -> list[Role]:
        if self.setup.unified:
            return ["unified"] * self.setup.num_prefill
        return ["prefill"] * self.setup.num_prefill + ["decode"] * self.setup.num_decode

    def _request(self, number: int) -> Request:
        room = self.setup.max_model_len - 1
        length = self.random.randint(1, room)
        shared = [i % VOCABULARY for i in range(self.setup.shared_prefix)][:length]
        prompt = shared + self.random.choices(range(VOCABULARY), k=length - len(shared))
        params = SamplingParams(
            ignore_eos=self.random.random() < 0.5, priority=self.random.choice([0, 0, 0, 1, -1])
        )
        max_tokens = self.random.randint(1, self.setup.max_model_len - length)
        return Request(f"r{number}", None, tuple(prompt), params, max_tokens, seed=number)

    # -- what can happen --------------------------------------------------------------------------

    def turn(self, worker: Incarnation) -> None:
        if worker.dead:
            return
        while worker.inbox and self.random.random() < 0.9:
            worker.worker.hear(worker.inbox.popleft())
        try:
            self.server.turn(worker)
        except Killed:
            worker.dead = True

    def kill(self, worker: Incarnation) -> None:
        """At once, or after some rows of its next step were computed and none was read."""
        self.deaths -= 1
        if self.random.random() < 0.5:
            assert isinstance(worker.runner, ToyRunner)
            worker.runner.rows_until_death = self.random.randint(0, 2)
        else:
            worker.dead = True

    def abort_one(self) -> None:
        self.aborts -= 1
        client = self.random.choice(self.clients)
        self.router.abort(client.request.request_id)

    def arrive(self) -> None:
        client = self.arriving.popleft()
        self.router.submit(client.request, client)

    def something(self) -> None:
        """One event, chosen by the seed."""
        roll = self.random.random()
        worker = self.random.choice(self.server.workers)
        if roll < 0.12 and self.arriving:
            self.arrive()
        elif roll < 0.16 and self.aborts:
            self.abort_one()
        elif roll < 0.19 and self.deaths and not worker.dead:
            self.kill(worker)
        elif roll < 0.25 and worker.dead:
            self.server.bury(worker)
        elif roll < 0.29:
            self.router.tick()
        elif roll < 0.33:
            self.ledger.sweep()
        elif roll < 0.60:
            self.server.deliver(worker)
        else:
            self.turn(worker)

    # -- a run ------------------------------------------------------------------------------------

    def check_run(self, num_events: int = 150) -> None:
        for _ in range(num_events):
            self.something()
        while self.arriving:
            self.arrive()
        self._settle()
        for client in self.clients:
            check(client)
        self.server.check_empty()

    def _settle(self) -> None:
        """Everybody gets a fair turn until all requests have ended; a bound says "starved"."""
        tokens = sum(c.request.max_tokens + len(c.request.prompt_token_ids) for c in self.clients)
        for _ in range(10 * (tokens + 10 * len(self.clients) + 10)):
            if self.router.is_idle:
                return
            for worker in list(self.server.workers):
                if worker.dead:
                    self.server.bury(worker)
                self.turn(worker)
                while worker.outbox:
                    self.server.deliver(worker)
            self.router.tick()
            self.ledger.sweep()
        phases = [self.ledger.word(slot).phase.name for slot in range(self.ledger.num_slots)]
        raise AssertionError(f"starved or deadlocked; slots are {phases}")
