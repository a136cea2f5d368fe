"""The router on a real ledger, with frames that the test delivers or loses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pdrt._C import FinishReason, Holder, Ledger, Phase
from pdrt.errors import DeviceFault, EngineDead, InvalidRequest, Overloaded
from pdrt.messages import Admit, Look
from pdrt.records import MAX_FRUITLESS_DEATHS
from pdrt.request import Request, sequences
from pdrt.router import Router
from pdrt.sampling_params import SamplingParams
from pdrt.sched.held import requests_held_by
from pdrt.wire import Message
from tests.in_process import Client, InProcessServer
from tests.toy_model import Limits, ToyRunner

PREFILL = 1 << 8
DECODE = 1 << 8 | 1


def request(name: str, priority: int = 0, prompt: tuple[int, ...] = (1, 2, 3)) -> Request:
    return Request(name, None, prompt, SamplingParams(priority=priority), max_tokens=4, seed=0)


class Bench:
    """A router, its ledger, and everything that it sent to one prefill worker."""

    def __init__(self, ledger: Ledger, max_queued: int = 10) -> None:
        self.ledger = ledger
        self.sweeps = 0
        self.router = Router(ledger, max_queued, self._sweep)
        self.sent: list[Message] = []
        self.connect(PREFILL)

    def _sweep(self) -> None:
        self.sweeps += 1

    def connect(self, instance: int, delivers: bool = True) -> None:
        def send(message: Message) -> bool:
            self.sent.append(message)
            return delivers

        self.router.worker_up(instance, "prefill", send)

    def submit(self, *requests: Request) -> list[Client]:
        clients = [Client(each) for each in requests]
        for client in clients:
            self.router.submit(client.request, client)
        return clients


@pytest.fixture
def bench(make_ledger: Callable[..., Ledger]) -> Bench:
    return Bench(make_ledger(num_slots=2, sealed_bound=1))


def test_a_request_is_told_once_while_its_worker_lives(bench: Bench) -> None:
    bench.submit(request("a"))
    for _ in range(5):
        bench.router.tick()
    assert bench.sent == [Admit(0, bench.ledger.word(0).generation)]
    bench.router.abort("a")
    bench.ledger.sweep()


def test_a_dead_workers_requests_are_told_to_the_next_one(bench: Bench) -> None:
    bench.submit(request("a"))
    bench.router.worker_down(PREFILL, [])
    bench.connect(PREFILL + 256)
    assert len(bench.sent) == 2 and bench.sent[0] == bench.sent[1]
    bench.router.abort("a")
    bench.ledger.sweep()


def test_all_that_could_prefill_a_request_are_told_of_it_once(bench: Bench) -> None:
    """Also the successor of one of them, while another knows of it already."""
    bench.connect(PREFILL + 2)
    bench.submit(request("a"))
    bench.router.worker_down(PREFILL, [])
    bench.connect(PREFILL + 256)
    bench.router.tick()
    assert bench.sent == 3 * [Admit(0, bench.ledger.word(0).generation)]
    bench.router.abort("a")
    bench.ledger.sweep()


def test_short_prompts_pass_a_long_one_on_another_worker() -> None:
    """Also those that are older than what their worker has room for."""
    ledger = Ledger.create(
        num_pages=400, page_size=4, num_slots=16, max_model_len=1100, sealed_bound=8
    )
    kv: dict[tuple[int, int], int] = {}
    limits = Limits(num_tokens=8, num_seqs=8, depth=1)
    server = InProcessServer(
        ledger,
        ["prefill", "prefill", "decode"],
        lambda holder: ToyRunner(holder, ledger, kv, limits, lambda: None),
        budget=8,
        max_num_seqs=8,
        eos_token_ids=[0],
    )
    clients = [
        Client(request(f"r{i}", prompt=(i, 1, 2) * (200 if i == 0 else 2))) for i in range(9)
    ]
    for client in clients:
        server.router.submit(client.request, client)
    rounds = 0
    while not all(client.tokens for client in clients[1:]):
        server.round()
        rounds += 1
    assert rounds < 20
    assert not clients[0].tokens
    while not server.router.is_idle:
        server.round()


def test_a_frame_that_was_not_sent_is_sent_by_the_next_tick(
    make_ledger: Callable[..., Ledger],
) -> None:
    bench = Bench(make_ledger())
    bench.router.worker_down(PREFILL, [])
    bench.connect(PREFILL + 256, delivers=False)
    bench.submit(request("a"))
    bench.router.tick()
    assert len(bench.sent) == 2
    bench.router.abort("a")
    bench.ledger.sweep()


def test_what_finds_no_slot_waits_in_order_of_priority(bench: Bench) -> None:
    clients = bench.submit(
        request("a"), request("b"), request("late"), request("early", priority=-1)
    )
    assert bench.router.num_waiting == 4  # two QUEUED, two without a slot
    bench.router.abort("a")
    bench.ledger.sweep()
    bench.router.tick()
    third = [bench.router._slots[s].request.request_id for s in (0, 1)]
    assert sorted(third) == ["b", "early"]
    for client in clients:
        bench.router.abort(client.request.request_id)
    bench.ledger.sweep()
    bench.router.tick()
    assert bench.router.is_idle


def test_the_queue_is_bounded_and_an_abort_makes_room(
    make_ledger: Callable[..., Ledger],
) -> None:
    bench = Bench(make_ledger(num_slots=1, sealed_bound=1), max_queued=1)
    bench.submit(request("runs"), request("waits"))
    with pytest.raises(Overloaded, match="--max-queued-requests"):
        bench.submit(request("refused"))
    bench.router.abort("waits")
    bench.submit(request("taken"))
    for name in ("runs", "taken"):
        bench.router.abort(name)
    bench.ledger.sweep()


def test_an_id_that_is_running_is_refused_and_the_running_one_goes_on(bench: Bench) -> None:
    (first,) = bench.submit(request("same"))
    with pytest.raises(InvalidRequest, match="'same' is running already"):
        bench.submit(request("same"))
    assert first.last is None and bench.router.num_requests == 1
    bench.router.abort("same")
    bench.ledger.sweep()


def test_what_has_ended_and_is_still_queued_waits_no_more(bench: Bench) -> None:
    bench.submit(request("a"), request("b"))
    bench.router.abort("a")
    assert (bench.router.num_requests, bench.router.num_waiting) == (1, 1)
    bench.router.abort("b")
    bench.ledger.sweep()


def test_an_abort_ends_the_client_at_once_and_its_slot_when_it_was_released(bench: Bench) -> None:
    (client,) = bench.submit(request("a"))
    assert bench.router.abort("a") and not bench.router.abort("a")
    assert client.last is not None and client.last.finish_reason == "abort"
    assert bench.sweeps == 1 and not bench.router.is_idle
    bench.ledger.sweep()
    bench.router.tick()
    assert bench.router.is_idle and bench.ledger.word(0).phase is Phase.EMPTY


def test_an_abort_wakes_the_worker_that_holds_the_slot(bench: Bench) -> None:
    bench.submit(request("a"))
    holder = bench.ledger.holder(PREFILL)
    holder.admit(0, bench.ledger.word(0).generation)
    bench.router.abort("a")
    assert bench.sent[-1] == Look()
    assert bench.ledger.word(0).abort
    holder.abort(0)


def test_a_request_under_which_workers_keep_dying_is_given_up(bench: Bench) -> None:
    (client,) = bench.submit(request("poison"))
    instance = PREFILL
    for _ in range(MAX_FRUITLESS_DEATHS):
        assert client.last is None
        holder = bench.ledger.holder(instance)
        holder.admit(0, bench.ledger.word(0).generation)
        bench.ledger.reap(instance)
        bench.router.worker_down(instance, [0])
        instance += 256
        bench.connect(instance)
    assert client.last is not None and isinstance(client.last.error, EngineDead)
    assert "poison" in str(client.last.error)
    bench.ledger.sweep()
    bench.router.tick()
    assert bench.router.is_idle


def test_a_fault_of_the_gpu_ends_what_it_was_computing_and_nothing_else(bench: Bench) -> None:
    doubtful, other = bench.submit(request("doubtful"), request("other"))
    holder = bench.ledger.holder(PREFILL)
    for slot in (0, 1):
        holder.admit(slot, bench.ledger.word(slot).generation)
    bench.ledger.reap(PREFILL, keep_filled=False)
    bench.router.worker_down(PREFILL, [0, 1], "an illegal memory access was encountered", [0])
    assert doubtful.last is not None and isinstance(doubtful.last.error, DeviceFault)
    assert "doubtful" in str(doubtful.last.error) and "illegal" in str(doubtful.last.error)
    bench.ledger.sweep()
    bench.connect(PREFILL + 256)
    assert bench.sent[-1] == Admit(1, bench.ledger.word(1).generation)
    assert other.last is None
    bench.router.abort("other")
    bench.ledger.sweep()


def test_a_token_that_a_worker_could_not_report_makes_its_death_fruitful(bench: Bench) -> None:
    (client,) = bench.submit(request("lucky"))
    for number in range(MAX_FRUITLESS_DEATHS):
        instance = PREFILL + 256 * number
        holder = bench.ledger.holder(instance)
        holder.admit(0, bench.ledger.word(0).generation)
        if number == MAX_FRUITLESS_DEATHS - 1:
            read_a_token(bench.ledger, holder)
        bench.ledger.reap(instance)
        bench.router.worker_down(instance, [0])
        bench.connect(instance + 256)
    assert client.last is None and client.tokens == [7]
    bench.router.abort("lucky")
    bench.ledger.sweep()


def test_a_death_is_not_counted_against_the_next_request_in_the_slot(
    make_ledger: Callable[..., Ledger],
) -> None:
    bench = Bench(make_ledger(num_slots=1, sealed_bound=1))
    bench.submit(request("held"))
    bench.ledger.holder(PREFILL).admit(0, bench.ledger.word(0).generation)
    bench.router.abort("held")
    held = requests_held_by(bench.ledger, PREFILL)
    bench.ledger.reap(PREFILL)
    bench.router.tick()
    (client,) = bench.submit(request("next"))
    assert bench.ledger.info(0).request_id == 1  # the router has not heard of the death yet
    for _ in range(MAX_FRUITLESS_DEATHS):
        bench.router.worker_down(PREFILL, held)
    assert client.last is None
    bench.router.abort("next")
    bench.ledger.sweep()


def read_a_token(ledger: Ledger, holder: Holder) -> None:
    """The holder of slot 0 computes the prompt and samples token 7."""
    generation, goal = ledger.word(0).generation, ledger.info(0).goal
    holder.boundary(holder.launch(), [(0, generation, goal, 7, 0.0, FinishReason.NONE)])


def test_when_the_engine_dies_everybody_is_told_once(bench: Bench) -> None:
    clients = bench.submit(request("a"), request("b"), request("c"))
    bench.router.fail_all(EngineDead("gone"))
    assert [str(client.last and client.last.error) for client in clients] == ["gone"] * 3
    assert bench.router.num_requests == 0
    for slot in (0, 1):
        bench.ledger.mark_abort(slot, bench.ledger.word(slot).generation)
    bench.ledger.sweep()


def test_followers_wait_for_their_leaders_first_token(bench: Bench) -> None:
    leader, *followers = sequences(
        replace(request("many"), params=SamplingParams(n=3, temperature=0.0))
    )
    clients = bench.submit(leader, *followers)
    bench.router.tick()
    assert len(bench.sent) == 1 and bench.router.num_requests == 3
    assert bench.router.num_waiting == 3
    bench.router.abort("many", clients[0])
    assert clients[0].last is not None and clients[1].last is None
    bench.ledger.sweep()
    bench.router.tick()
    assert {frame.slot for frame in bench.sent if isinstance(frame, Admit)} == {0, 1}


def test_abort_by_name_takes_the_followers_along(bench: Bench) -> None:
    asked = sequences(replace(request("many"), params=SamplingParams(n=3)))
    clients = bench.submit(*asked, request("other"))
    assert bench.router.abort("many")
    assert [c.last is not None for c in clients] == [True, True, True, False]
    bench.ledger.sweep()
    bench.router.tick()
    assert bench.router.num_requests == 1
