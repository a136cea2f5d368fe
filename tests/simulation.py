"""A server in one process, with real ledger, router, schedulers and workers, and a toy model.

Sockets, processes and clocks are replaced by a seeded choice of what happens next: a request
arrives, a frame is read, refused or lost, a worker takes a turn and finds the lock free or busy,
the router ticks, the keeper sweeps or audits, a client leaves, a worker dies at rest or in the
middle of a step, is reaped some time later, and still later the router hears of it and of the next
incarnation. With two steps in flight a device computes when it is waited for or before, and what a
dead worker has launched until it is reaped. The seed alone decides all of it, so a failing seed
shows the same run again.

    python -m tests.search       many seeds
    python -m tests.replay SEED  one of them, event by event
"""

from __future__ import annotations

import random
from collections import Counter, deque
from functools import partial

from pdrt._C import Holder, Ledger, Phase
from pdrt.messages import Report, Role
from tests.in_process import Incarnation
from tests.simulated_reader import Grave, Reader
from tests.simulated_server import SimulatedServer
from tests.simulated_setup import Setup, draw_requests
from tests.toy_model import EOS, Limits, ToyRunner


class Killed(Exception):
    """The worker dies here."""


class Simulation:
    """One run; `check_run` raises AssertionError where a promise is broken."""

    cpu_seconds = 5.0  # of a run, which takes milliseconds
    server_type = SimulatedServer
    runner_type = ToyRunner

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.random = random.Random(setup.seed)
        self.trace: list[tuple[object, ...]] = []
        self.clients = [Reader(request) for request in draw_requests(setup)]
        self.arriving = deque(self.clients)
        self.dying: dict[int, int] = {}  # instance -> rows that it computes before its death
        self.graves: deque[Grave] = deque()  # the router has not heard of them yet
        self.late: deque[Report] = deque()  # written by workers that were reaped since
        self.deaths, self.aborts = setup.deaths, setup.aborts
        self.is_fair = False  # from now on nothing goes wrong any more
        self.ledger = Ledger.create(
            num_pages=setup.num_pages,
            page_size=setup.page_size,
            num_slots=setup.num_slots,
            max_model_len=setup.max_model_len,
            sealed_bound=setup.sealed_bound,
        )
        self.kv: dict[tuple[int, int], int] = {}
        self.server = self._make_server()
        self.router = self.server.router

    def _make_server(self) -> SimulatedServer:
        return self.server_type(
            self.ledger,
            self._roles(),
            self._make_runner,
            budget=self.setup.budget,
            max_num_seqs=self.setup.max_num_seqs,
            eos_token_ids=[EOS],
            is_busy=lambda: self._goes_wrong(self.setup.busy),
            is_lost=lambda: self._goes_wrong(self.setup.loss),
        )

    def _roles(self) -> list[Role]:
        if self.setup.unified:
            return ["unified"] * self.setup.num_prefill
        return ["prefill"] * self.setup.num_prefill + ["decode"] * self.setup.num_decode

    def _make_runner(self, holder: Holder) -> ToyRunner:
        limits = Limits(self.setup.budget, self.setup.max_num_seqs, self.setup.depth)
        on_row = partial(self._on_row, holder.instance)
        return self.runner_type(holder, self.ledger, self.kv, limits, on_row)

    def _on_row(self, instance: int) -> None:
        if instance in self.dying:
            self.dying[instance] -= 1
            if self.dying[instance] < 0:
                raise Killed

    def _goes_wrong(self, share: float) -> bool:
        return share > 0.0 and not self.is_fair and self.random.random() < share

    # -- what can happen --------------------------------------------------------------------------

    def arrive(self) -> None:
        client = self.arriving.popleft()
        self.trace.append(("arrives", client.request.request_id))
        self.router.submit(client.request, client)

    def abort(self) -> None:
        self.aborts -= 1
        name = self.random.choice(self.clients).request.request_id
        self.trace.append(("aborts", name))
        self.router.abort(name)

    def turn(self, worker: Incarnation) -> None:
        """Some of the frames, and a step. A dead worker takes no turn."""
        if worker.dead:
            return
        while worker.inbox and self.random.random() < 0.9:
            worker.worker.hear(worker.inbox.popleft())
        self.trace.append(("turn", worker.role, worker.instance))
        try:
            if self.setup.depth > 1 and self.random.random() < 0.3:
                worker.runner.compute_until()  # the device is quicker than the host
            self.server.turn(worker)
        except Killed:
            self.trace.append(("died in its step", worker.instance))
            worker.dead = True

    def kill(self, worker: Incarnation) -> None:
        """At once, or after some rows of its next step were computed and none was read."""
        self.deaths -= 1
        if self.random.random() < 0.5:
            self.dying[worker.instance] = self.random.randint(0, 2)
        else:
            self.trace.append(("died at rest", worker.instance))
            worker.dead = True

    def reap(self, worker: Incarnation) -> None:
        """What a dead worker has sent may be read before it is buried, later, or never."""
        if self.random.random() < 0.5:
            self.late.extend(worker.outbox)
        if self.random.random() < 0.5:
            worker.runner.end()  # else the device drops what it launched
        held = self.server.reap(worker)
        self.trace.append(("reaped", worker.instance, held))
        self.graves.append(Grave(worker, held))

    def replace(self) -> None:
        grave = self.graves.popleft()
        self.trace.append(("replaced", grave.worker.instance))
        for slot in range(self.ledger.num_slots):
            info = self.ledger.info(slot)
            is_taken = self.ledger.word(slot).phase is not Phase.EMPTY
            if is_taken and info.request_id in grave.held:
                self.clients[info.request_id].count_death(info.num_output_tokens)
        self.server.replace(grave.worker, grave.held)

    def hear_late(self) -> None:
        self.trace.append(("late report",))
        self.router.hear(self.late.popleft())

    def audit(self) -> None:
        self.trace.append(("audit",))
        audit = self.ledger.audit()
        assert audit is not None and not audit.violations, audit and audit.violations

    def something(self) -> None:
        """One event, chosen by the seed among those that change anything."""
        roll = self.random.random()
        if self.arriving and self.random.random() < self.setup.hurry:
            self.arrive()
        elif roll < 0.02:
            self.audit()
        elif roll < 0.04:
            self.router.tick()
        elif roll < 0.07:
            self.ledger.sweep()
        elif roll < 0.11 and self.aborts:
            self.abort()
        elif roll < 0.15 and self.late:
            self.hear_late()
        elif self.graves and (roll < 0.35 or not self.server.workers):
            self.replace()
        else:
            self._move(self._next_moving())

    def _next_moving(self) -> Incarnation:
        """The first that moves, from a random one on; if none does, that one."""
        workers = self.server.workers
        first = self.random.randrange(len(workers))
        in_turn = workers[first:] + workers[:first]
        return next((each for each in in_turn if each.moves), workers[first])

    def _move(self, worker: Incarnation) -> None:
        roll = self.random.random()
        if worker.dead and roll < 0.3:
            self.reap(worker)
        elif self.deaths and not worker.dead and roll < self.setup.deadliness:
            self.kill(worker)
        elif worker.outbox and roll < 0.6:
            self.server.deliver(worker)
        else:
            self.turn(worker)

    # -- a run ------------------------------------------------------------------------------------

    def check_run(self) -> None:
        for _ in range(self.setup.num_events):
            if not self.arriving and not self.graves and self.router.is_idle:
                break
            self.something()
        while self.arriving:
            self.arrive()
        self._settle()
        for client in self.clients:
            client.check()
        self.server.check_empty()

    def _settle(self) -> None:
        """Everybody gets a fair turn until all requests have ended; a bound says "starved"."""
        self.is_fair = True
        tokens = sum(c.request.max_tokens + len(c.request.prompt_token_ids) for c in self.clients)
        for _ in range(10 * (tokens + 10 * len(self.clients) + 10)):
            if self._is_over():
                return
            self._round()
        phases = [self.ledger.word(slot).phase.name for slot in range(self.ledger.num_slots)]
        raise AssertionError(f"starved or deadlocked; slots are {phases}")

    def _is_over(self) -> bool:
        """All requests have ended, and no worker has a step of theirs to read."""
        return self.router.is_idle and not any(w.worker.has_work for w in self.server.workers)

    def _round(self) -> None:
        while self.graves:
            self.replace()
        for worker in [each for each in self.server.workers if each.moves]:
            if worker.dead:
                self.reap(worker)
                continue
            self.turn(worker)
            while worker.outbox:
                self.server.deliver(worker)
        if self.setup.loss or self.setup.aborts or self.setup.deaths:
            # Else nothing was lost, and no request may depend on the router's second look.
            self.router.tick()
        self.ledger.sweep()

    def tally(self) -> Counter[str]:
        """What happened in the run, by name."""
        seen = Counter(str(event[0]) for event in self.trace)
        seen.update(self.server.tally())
        for client in self.clients:
            seen["followers"] += client.request.leader is not None
            seen["scored prompts"] += client.request.params.prompt_logprobs is not None
            seen["given up"] += client.last is not None and client.last.error is not None
        return seen
