"""Router, workers and ledger of one server, all in this process, moved by whoever holds it.

The same code that runs in the real processes; only sockets, processes and clocks are missing, so a
test decides what happens next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pdrt._C import Holder, Ledger, Outcome
from pdrt.messages import Report, Role
from pdrt.request import Request, TokenLogprobs
from pdrt.router import Router
from pdrt.sched.decode import DecodeScheduler
from pdrt.sched.held import requests_held_by
from pdrt.sched.prefill import PrefillScheduler
from pdrt.updates import Update, token_logprobs
from pdrt.wire import Message
from pdrt.worker.decode_worker import DecodePhase
from pdrt.worker.prefill_worker import PrefillPhase
from pdrt.worker.worker import Phase, Runner, Worker


class Client:
    """Records the updates of one request."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.scores: list[TokenLogprobs] = []
        self.prompt_scores: list[TokenLogprobs] = []
        self.num_cached_tokens = 0
        self.last: Update | None = None

    def __call__(self, update: Update) -> None:
        assert self.last is None, "an update after the last one"
        self.tokens += update.token_ids
        self.logprobs += update.logprobs
        if update.scores:
            self.scores += token_logprobs(update.token_ids, update.scores)
        if update.prompt_scores:
            prompt = self.request.prompt_token_ids
            self.prompt_scores += token_logprobs(prompt[1:], update.prompt_scores)
        self.num_cached_tokens = update.num_cached_tokens
        if update.is_last:
            self.last = update


@dataclass
class Incarnation:
    """A worker instance and the frames on their way to and from it."""

    index: int
    role: Role
    instance: int
    worker: Worker
    runner: Runner
    inbox: deque[Message] = field(default_factory=deque)
    outbox: deque[Report] = field(default_factory=deque)
    dead: bool = False

    @property
    def moves(self) -> bool:
        """It has something to read, to say or to compute, or to be buried for."""
        return bool(self.dead or self.inbox or self.outbox or self.worker.has_work)


class InProcessServer:
    """One server. `make_runner(holder)` makes the runner of a worker instance."""

    router_type = Router

    def __init__(
        self,
        ledger: Ledger,
        roles: Sequence[Role],
        make_runner: Callable[[Holder], Runner],
        *,
        budget: int,
        max_num_seqs: int,
        eos_token_ids: Sequence[int],
    ) -> None:
        self.ledger = ledger
        self.router = self.router_type(ledger, max_queued=100_000, sweep=lambda: None)
        self.workers: list[Incarnation] = []
        self._make_runner = make_runner
        self._budget = budget
        self._max_num_seqs = max_num_seqs
        self._eos = eos_token_ids
        for index, role in enumerate(roles):
            self.start(index, role, incarnation=1)

    def start(self, index: int, role: Role, incarnation: int) -> None:
        holder = self.make_holder(incarnation << 8 | index)
        runner = self._make_runner(holder)
        worker = Worker(holder, runner, self._phases(role, holder, runner), self._budget, self._eos)
        started = Incarnation(index, role, holder.instance, worker, runner)
        self.workers.append(started)

        self.router.worker_up(holder.instance, role, lambda message: self.send(started, message))

    def make_holder(self, instance: int) -> Holder:
        return self.ledger.holder(instance)

    def send(self, worker: Incarnation, message: Message) -> bool:
        """The router's frame to a worker; False when it was not sent."""
        worker.inbox.append(message)
        return True

    def _phases(self, role: Role, holder: Holder, runner: Runner) -> list[Phase]:
        decode = DecodeScheduler(self.ledger, holder, self._max_num_seqs)
        prefill = PrefillScheduler(self.ledger, holder, self._max_num_seqs, runner.copy_page)
        if role == "prefill":
            return [PrefillPhase(prefill)]
        if role == "decode":
            return [DecodePhase(decode)]
        return [DecodePhase(decode), PrefillPhase(prefill, on_sealed=decode.tell)]

    def hear_all(self, worker: Incarnation) -> None:
        while worker.inbox:
            worker.worker.hear(worker.inbox.popleft())

    def turn(self, worker: Incarnation) -> None:
        reports, _ = worker.worker.turn()
        worker.outbox.extend(reports)

    def deliver(self, worker: Incarnation) -> None:
        if worker.outbox:
            self.router.hear(worker.outbox.popleft())

    def bury(self, worker: Incarnation) -> None:
        """The keeper: reap, tell the router, start again. Unread frames die with the worker."""
        self.replace(worker, self.reap(worker))

    def reap(self, worker: Incarnation) -> list[int]:
        """Releases what a dead worker held: the numbers of these requests."""
        held = requests_held_by(self.ledger, worker.instance)
        assert self.ledger.reap(worker.instance) is Outcome.DONE
        self.workers.remove(worker)
        return held

    def replace(self, worker: Incarnation, held: Sequence[int]) -> None:
        """The router hears of the death, and of the next incarnation."""
        self.router.worker_down(worker.instance, held)
        self.start(worker.index, worker.role, (worker.instance >> 8) + 1)

    def round(self) -> None:
        """A fair turn for everybody."""
        for worker in list(self.workers):
            if worker.dead:
                self.bury(worker)
                continue
            self.hear_all(worker)
            self.turn(worker)
            while worker.outbox:
                self.deliver(worker)
        self.ledger.sweep()

    def run(self, requests: Sequence[Request]) -> list[Client]:
        """Runs requests to their end."""
        clients = [Client(request) for request in requests]
        for client in clients:
            self.router.submit(client.request, client)
        while not self.router.is_idle:
            self.round()
        return clients

    def check_empty(self) -> None:
        """Every invariant holds and every page is free or cached."""
        audit = self.ledger.audit()
        assert audit is not None and not audit.violations, audit and audit.violations
        counts = audit.counts
        assert counts.free + counts.cached == counts.total, (
            f"{counts.free} free and {counts.cached} cached of {counts.total} pages"
        )
        assert self.ledger.counters().handoff_bytes == 0
