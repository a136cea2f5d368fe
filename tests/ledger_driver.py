"""Workers that drive a real ledger without a model, for the ledger's tests.

The "model" is a pure function of the tokens so far, so a request's right output is known whatever
happened on the way. The KV pool is an array with one number for each token slot: the digest of all
tokens up to it. A worker checks that number for every token that a step reads, so a page that two
requests write, or that is read before it was written, is seen at once.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

EOS = 0
MODULUS = 2**61 - 1


def prefix_digests(tokens: list[int]) -> list[int]:
    """One number for each prefix of `tokens`: what the KV of its last token stands for."""
    return list(accumulate(tokens, lambda d, t: (d * 1_000_003 + t + 1) % MODULUS, initial=7))[1:]


def next_token(tokens: list[int]) -> int:
    return prefix_digests(tokens)[-1] % 11


def expected_output(prompt: list[int], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_tokens:
        tokens.append(next_token(tokens))
        if tokens[-1] == EOS:
            break
    return tokens[len(prompt) :]


def new_pool(ledger) -> NDArray[np.int64]:
    """[num_pages + 1, page_size], for the threads of one process."""
    return np.zeros((ledger.num_pages + 1, ledger.page_size), np.int64)


def new_pool_file(ledger) -> int:
    """The descriptor of a pool that several processes map."""
    fd = os.memfd_create("test-pool")
    os.ftruncate(fd, new_pool(ledger).nbytes)
    return fd


def map_pool(ledger, fd: int) -> NDArray[np.int64]:
    shape = ledger.num_pages + 1, ledger.page_size
    return np.frombuffer(mmap.mmap(fd, 0), np.int64).reshape(shape)


@dataclass
class Client:
    """The router's side of one request."""

    prompt: list[int]
    max_tokens: int
    output: list[int] | None = None  # once the request has ended; None for an aborted one
    ended: bool = False


class Worker:
    """One instance; each turn does, for each slot, the next thing that the protocol allows."""

    def __init__(self, c: ModuleType, ledger, instance: int, pool, phases="prefill decode") -> None:
        self.c, self.ledger, self.pool = c, ledger, pool
        self.holder = ledger.holder(instance)
        self.prefills, self.decodes = "prefill" in phases, "decode" in phases
        self.chunk = 2 * ledger.page_size + 1  # so that chunks end inside pages too

    def turn(self) -> None:
        for slot in range(self.ledger.num_slots):
            self.handle(slot)

    def handle(self, slot: int) -> None:
        word, phase = self.ledger.word(slot), self.c.Phase
        if word.phase == phase.QUEUED and self.prefills:
            self.holder.admit(slot, word.generation, self.copy)
        elif word.phase == phase.SEALED and self.decodes:
            self.holder.take(slot, word.generation)
        elif word.holder == self.holder.instance:
            self.work(slot, word)

    def copy(self, source: int, destination: int, num_tokens: int) -> bool:
        self.pool[destination, :num_tokens] = self.pool[source, :num_tokens]
        return True

    def work(self, slot: int, word) -> None:
        info = self.ledger.info(slot)
        num_tokens = info.num_prompt_tokens + info.num_output_tokens
        if info.finish_reason != self.c.FinishReason.NONE:
            self.holder.finish(slot)
        elif word.abort:
            self.holder.abort(slot)
        elif word.victim and self.holder.let_go(slot) == self.c.Outcome.DONE:
            pass
        elif word.phase == self.c.Phase.PREFILLING and num_tokens > info.goal:
            self.holder.seal(slot)
        elif word.phase == self.c.Phase.PREFILLING:
            self.step(slot, word, min(info.goal, info.num_computed_tokens + self.chunk))
        elif self.holder.grow(slot, num_tokens) == self.c.Outcome.DONE:
            self.step(slot, word, num_tokens)

    def step(self, slot: int, word, upto: int) -> None:
        info = self.ledger.info(slot)
        num_tokens = info.num_prompt_tokens + info.num_output_tokens
        tokens = self.ledger.tokens(slot, 0, num_tokens).tolist()
        step = self.holder.launch()
        self.compute(slot, tokens, info.num_computed_tokens, upto)
        token = next_token(tokens) if upto == num_tokens else -1
        reason = self.c.FinishReason.NONE
        if token == EOS:
            reason = self.c.FinishReason.STOP
        elif token >= 0 and info.num_output_tokens + 1 == info.max_tokens:
            reason = self.c.FinishReason.LENGTH
        row = (slot, word.generation, upto, token, -1.0, reason)
        while self.holder.boundary(step, [row]) is None:
            pass

    def compute(self, slot: int, tokens: list[int], start: int, upto: int) -> None:
        """Checks the KV of [0, start) and writes that of [start, upto)."""
        digests = np.array(prefix_digests(tokens)[:upto], np.int64)
        places = slot_mapping(self.ledger, slot, upto)
        flat = self.pool.reshape(-1)
        assert (flat[places[:start]] == digests[:start]).all(), f"slot {slot} reads another's KV"
        flat[places[start:]] = digests[start:]


def slot_mapping(ledger, slot: int, upto: int) -> NDArray[np.int64]:
    """Places in the pool of the slot's first `upto` tokens."""
    table = ledger.page_table([slot])[0].astype(np.int64)
    position = np.arange(upto)
    return table[position // ledger.page_size] * ledger.page_size + position % ledger.page_size


class Clients:
    """The router and all clients: claims, aborts, collects outputs and ends."""

    def __init__(self, c: ModuleType, ledger) -> None:
        self.c, self.ledger = c, ledger
        self.requests: dict[int, Client] = {}

    def submit(self, prompt: list[int], max_tokens: int, rank: int | None = None) -> int | None:
        number = len(self.requests)
        claimed = self.ledger.claim(
            number, number if rank is None else rank, np.array(prompt, np.int32), max_tokens, b""
        )
        if claimed is None:
            return None
        self.requests[number] = Client(prompt, max_tokens)
        return claimed[0]

    def living(self) -> Iterator[int]:
        for slot in range(self.ledger.num_slots):
            if self.ledger.word(slot).phase != self.c.Phase.EMPTY:
                yield slot

    def collect(self) -> None:
        """Reads the outputs of finished slots and empties them."""
        for slot in self.living():
            word = self.ledger.word(slot)
            if word.phase != self.c.Phase.FINISHED:
                continue
            info = self.ledger.info(slot)
            request = self.requests[info.request_id]
            assert not request.ended, "a second terminal event"
            end = info.num_prompt_tokens + info.num_output_tokens
            request.output = self.ledger.tokens(slot, info.num_prompt_tokens, end).tolist()
            request.ended = True
            assert self.ledger.end(slot, word.generation)

    def check_outputs(self) -> None:
        for number, request in self.requests.items():
            if request.output is not None:
                right = expected_output(request.prompt, request.max_tokens)
                assert request.output == right, (number, request.output, right)


def run_to_end(clients: Clients, workers: list[Worker], turns: int = 2000) -> None:
    """Until every slot is EMPTY; then every page is free or cached."""
    ledger = clients.ledger
    for _ in range(turns):
        clients.collect()
        if not list(clients.living()):
            break
        ledger.sweep()
        for worker in workers:
            worker.turn()
    left = [(s, ledger.word(s).phase, ledger.word(s).holder) for s in clients.living()]
    assert not left, f"requests that never finish: {left}"
    clients.check_outputs()
    assert_quiet(ledger)


def assert_clean(ledger):
    """The auditor finds nothing and each page is counted once. Returns the counts."""
    audit = ledger.audit()
    assert audit is not None, "the lock is held"
    assert audit.violations == []
    n = audit.counts
    used = n.prefilling + n.sealed + n.decoding
    assert n.free + used + n.cached + n.quarantined == n.total == ledger.num_pages
    return n


def assert_quiet(ledger) -> None:
    n = assert_clean(ledger)
    assert n.free + n.cached == n.total, "pages are still held after the last request"
