"""What a worker's next step is to run: a value that the schedulers make and the runner reads.

A request's tokens are prompt + output, `num_tokens` in all:

    [0, num_computed_tokens)            have KV in the request's pages
    [num_computed_tokens, num_tokens)   do not; a row of a plan computes some of them, from the left

A row that reaches `num_tokens` samples the next token from the logits of its last position.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One request's share of a step: positions [start, start + num_tokens) of its tokens."""

    slot: int
    generation: int
    start: int
    num_tokens: int
    samples: bool

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


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of a row that samples, and its log-probability (float32, natural log).

    The log-probability is that of the model's own distribution, before temperature and truncation.
    """

    token: int
    logprob: float
