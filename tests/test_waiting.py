"""The queue of requests without a slot: oldest first, followers after their leader."""

from __future__ import annotations

import random

from pdrt.records import Record
from pdrt.request import Request, sequences
from pdrt.sampling_params import SamplingParams
from pdrt.waiting import WaitingQueue


def record(number: int, priority: int = 0, n: int = 1) -> Record:
    params = SamplingParams(priority=priority, n=n)
    request = Request(f"r{number}", None, (1,), params, max_tokens=1, seed=0)
    return Record(request, number, lambda update: None)


def drained(queue: WaitingQueue) -> list[int]:
    numbers = []
    while queue.oldest():
        numbers.append(queue.pop().number)
    return numbers


def test_the_order_holds_when_some_leave_before_their_turn() -> None:
    for seed in range(50):
        chance, queue = random.Random(seed), WaitingQueue()
        records = [record(i, priority=chance.choice([0, 0, 1, -1])) for i in range(12)]
        for each in chance.sample(records, len(records)):
            queue.push(each)
        left = chance.sample(records, 5)
        for each in left:
            queue.remove(each)
        rest = sorted(set(records) - set(left), key=lambda each: each.rank)
        assert len(queue) == 7 and drained(queue) == [each.number for each in rest]


def test_followers_count_as_waiting_and_are_let_in_with_their_own_rank() -> None:
    queue, leader = WaitingQueue(), record(0, n=3)
    first, second = (
        Record(request, number, lambda update: None)
        for number, request in enumerate(sequences(leader.request)[1:], 1)
    )
    queue.keep_back(first, leader)
    queue.keep_back(second, leader)
    queue.push(record(3))
    assert len(queue) == 3 and queue.oldest() is not first
    queue.remove(second)
    queue.let_in(leader)
    queue.let_in(leader)
    assert drained(queue) == [1, 3] and len(queue) == 0
