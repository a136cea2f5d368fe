"""Two steps in flight: the same tokens as with one, and no page is reused under an unread step.

The search (test_simulation.py) runs half of its servers so, with every fault; here is, turn by
turn, what it means. test_deferred.py is about the real runner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from pdrt._C import FinishReason, Ledger, PageCounts, Phase, SlotInfo
from pdrt.request import Request, SamplingParams
from pdrt.sched.plan import Plan, Result
from tests.in_process import Client, InProcessServer
from tests.toy_model import EOS, Limits, ToyRunner, ToyStep, expected_output


class LoggedStep:
    def __init__(self, step: ToyStep, on_read: Callable[[], None]) -> None:
        self._step, self._on_read = step, on_read

    def read(self) -> list[Result]:
        self._on_read()
        return self._step.read()


class LoggedRunner(ToyRunner):
    """Notes what is launched, by the number of the step, and what is read."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.log: list[str] = []
        self.plans: list[Plan] = []
        self.on_read: Callable[[], None] = lambda: None

    def launch(self, plan: Plan) -> LoggedStep:
        self.plans.append(plan)
        name = str(len(self.plans))
        self.log.append(f"launch {name}")
        return LoggedStep(super().launch(plan), lambda: self._read(name))

    def _read(self, name: str) -> None:
        self.log.append(f"read {name}")
        self.on_read()


class Bench:
    """A prefill and a decode worker with the toy model, two steps in flight each."""

    def __init__(self, ledger: Ledger) -> None:
        kv: dict[tuple[int, int], int] = {}
        self.server = InProcessServer(
            ledger,
            ["prefill", "decode"],
            lambda holder: LoggedRunner(holder, ledger, kv, Limits(16, 4, 2), lambda: None),
            budget=16,
            max_num_seqs=4,
            eos_token_ids=[EOS],
        )
        self.ledger = ledger
        self.decode = self.server.workers[1].runner

    def submit(self, *requests: Request) -> list[Client]:
        clients = [Client(each) for each in requests]
        for client in clients:
            self.server.router.submit(client.request, client)
        return clients

    def run(self, *requests: Request) -> list[Client]:
        """Runs them to their end, and a round more, in which the last step is read."""
        clients = self.server.run(requests)
        self.server.round()
        for client in clients:
            assert client.tokens == expected_output(client.request)[0]
        return clients

    def counts(self) -> PageCounts:
        audit = self.ledger.audit()
        assert audit is not None and not audit.violations
        return audit.counts


@pytest.fixture
def bench(make_ledger: Callable[..., Ledger]) -> Bench:
    return Bench(make_ledger())


def ask(name: str, prompt: Sequence[int], max_tokens: int, **params: object) -> Request:
    params = {"ignore_eos": True, **params}
    return Request(name, None, tuple(prompt), SamplingParams(**params), max_tokens, seed=0)


def ask_until_eos(num_tokens: int) -> Request:
    """A request that its model ends after so many tokens, long before max_tokens."""
    for number in range(10_000):
        prompt = [number // 5**k % 5 for k in range(5)]
        asked = ask("eos", prompt, 11, ignore_eos=False)
        if len(expected_output(asked)[0]) == num_tokens:
            return asked
    raise AssertionError(f"no prompt gives EOS after {num_tokens} tokens")


def test_a_step_is_launched_before_the_one_before_it_is_read(bench: Bench) -> None:
    bench.run(ask("r", [1, 2, 3], 5))
    assert bench.decode.log == [
        *("launch 1", "launch 2", "read 1", "launch 3", "read 2", "launch 4", "read 3", "read 4"),
    ]
    ahead = [row.is_ahead for plan in bench.decode.plans for row in plan.rows]
    assert ahead == [False, True, True, True]


def test_nothing_is_launched_past_max_tokens(bench: Bench) -> None:
    bench.run(ask("a", [1, 2, 3], 1), ask("b", [3, 1], 2), ask("c", [2, 2], 6))
    assert sum(len(plan.rows) for plan in bench.decode.plans) == 0 + 1 + 5


def test_a_request_that_reads_its_tokens_has_no_step_ahead(bench: Bench) -> None:
    """Nor has any that decodes beside it."""
    bench.run(ask("plain", [1, 2, 3], 5), ask("reads", [3, 2], 3, frequency_penalty=0.5))
    beside = [plan for plan in bench.decode.plans if len(plan.rows) > 1]
    assert beside and not any(row.is_ahead for plan in beside for row in plan.rows)
    assert any(row.is_ahead for plan in bench.decode.plans for row in plan.rows)


@pytest.mark.parametrize("num_tokens", [2, 3, 4, 5])
def test_what_was_launched_past_the_end_is_thrown_away(bench: Bench, num_tokens: int) -> None:
    (client,) = bench.run(ask_until_eos(num_tokens))
    assert client.last is not None and client.last.finish_reason == "stop"
    computed = sum(len(plan.rows) for plan in bench.decode.plans)
    assert computed == num_tokens - 1 + 1  # the first token is prefill's; one row was dead


def until(bench: Bench, is_so: Callable[[SlotInfo], bool]) -> int:
    """Rounds until it is so of a slot: which."""
    for _ in range(50):
        bench.server.round()
        for slot in range(bench.ledger.num_slots):
            if is_so(bench.ledger.info(slot)):
                return slot
    raise AssertionError("it never came that far")


def test_pages_of_an_aborted_request_are_free_when_its_steps_were_read(bench: Bench) -> None:
    (client,) = bench.submit(ask("r", [1, 2, 3], 12))
    slot = until(bench, lambda info: info.num_output_tokens == 6)
    bench.server.router.abort("r")
    seen = []
    bench.decode.on_read = lambda: seen.append(
        (bench.ledger.word(slot).phase, bench.counts().quarantined)
    )
    bench.server.round()
    assert seen == [(Phase.EMPTY, 1)], "the slot does not wait for the step, the last page does"
    assert bench.counts().quarantined == 0
    assert client.last is not None and client.last.finish_reason == "abort"


def test_pages_of_a_request_that_ended_are_free_when_its_dead_row_was_read(bench: Bench) -> None:
    bench.submit(ask_until_eos(3))
    until(bench, lambda info: info.finish_reason is FinishReason.STOP)
    assert bench.counts().quarantined == 1
    bench.server.round()
    assert bench.counts().quarantined == 0
    assert not bench.server.workers[1].worker.has_work


def test_one_request_is_preempted_for_one_page(make_ledger: Callable[..., Ledger]) -> None:
    """Its page is free when the step in flight was read: no other is preempted meanwhile."""
    bench = Bench(make_ledger(num_pages=4, page_size=16, max_model_len=32))
    bench.submit(*(ask(f"r{i}", [i] * length, 10) for i, length in enumerate((13, 1, 1, 1))))
    while bench.ledger.counters().preempted == 0:
        bench.server.round()
    assert bench.ledger.counters().preempted == 1
    while not bench.server.router.is_idle:
        bench.server.round()
    assert bench.ledger.counters().preempted == 1
