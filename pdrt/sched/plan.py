"""What a worker's next step is to run, and what comes of it: values between schedulers and runner.

A request's tokens are prompt + output, `num_tokens` in all:

    [0, num_computed_tokens)            have KV in the request's pages
    [num_computed_tokens, num_tokens)   do not; a row of a plan computes some of them, from the left

A row that reaches `num_tokens` samples the next token from the logits of its last position.

There is one of each for every request and step, so they are msgspec's: a dataclass takes ten times
as long to make.

Where a step was launched and not read, the next one is planned from where that step will leave each
request, as if it sampled one token more that is not the last. Such a row is *ahead*: the host does
not know its token, and if the request has ended or was given up by then, nobody takes its result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int]  # a slot and its generation: one stay of one request

# Of the rows that were launched and not read, by their keys: their `end`.
Unread = Mapping[Key, int]
NOTHING_UNREAD: Unread = MappingProxyType({})


class Row(msgspec.Struct, frozen=True, gc=False):
    """One request's share of a step: positions [start, start + num_tokens) of its tokens.

    Attributes:
        is_ahead: its token is the one that its request's row in the step before samples, which is
            not read yet.
    """

    slot: int
    generation: int
    start: int
    num_tokens: int
    samples: bool
    is_ahead: bool = False

    @property
    def key(self) -> Key:
        return self.slot, self.generation

    @property
    def end(self) -> int:
        """Total KV length once the step was read (seq_len)."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """One forward pass of one worker."""

    rows: tuple[Row, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(row.num_tokens for row in self.rows)

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __add__(self, other: Plan) -> Plan:
        """The merge of two plans into one forward pass: unified mode puts decode rows first."""
        return Plan(self.rows + other.rows)


class Sampled(msgspec.Struct, frozen=True, gc=False):
    """The next token of a row that samples, and its log-probability (float32, natural log).

    The log-probability is that of the model's own distribution, before temperature and truncation.
    """

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model thought of tokens that follow each other, for a request that asks.

    Attributes:
        start: position of the first.
        logprobs: [n] float32, of these tokens.
        top_ids, top_logprobs: [n, num_top] int32 and float32, the likeliest tokens in their place.
    """

    start: int
    logprobs: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]


class Result(msgspec.Struct, frozen=True):
    """What a row gave: nothing, where it is a part of a prompt whose tokens nobody scores."""

    sampled: Sampled | None = None
    scores: tuple[Scores, ...] = ()
