"""Loads that are drawn: random lengths, shared prefixes, conversations.

Every one is a function of a seed and its numbers, so that two servers meet the same requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pdrt.bench.load.prompts import Writer
from pdrt.bench.load.sessions import Prompt, Session, Turn
from pdrt.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a request. range_ratio r: lengths are even in [(1 - r) n, (1 + r) n]."""

    input_len: int = 130
    output_len: int = 64
    range_ratio: float = 0.0

    def __post_init__(self) -> None:
        for name in ("input_len", "output_len"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag} is {getattr(self, name)}; give 1 or more")
        if not 0 <= self.range_ratio < 1:
            raise ConfigError(f"--range-ratio is {self.range_ratio}; give 0 up to, not with, 1")

    def draw(self, length: int, rng: np.random.Generator) -> int:
        spread = int(length * self.range_ratio)
        return max(1, int(rng.integers(length - spread, length + spread + 1)))


@dataclass(frozen=True, slots=True)
class Drawing:
    """What every drawn load needs."""

    writer: Writer
    lengths: Lengths
    rng: np.random.Generator

    def turn(self, input_len: int) -> Turn:
        count = self.lengths.draw(input_len, self.rng)
        prompt = self.writer.prompt(count, self.rng)
        return Turn(prompt, self.lengths.draw(self.lengths.output_len, self.rng), count)


def random_lengths(drawing: Drawing, count: int) -> list[Session]:
    """Requests that share nothing."""
    return [Session((drawing.turn(drawing.lengths.input_len),)) for _ in range(count)]


def shared_prefix(
    drawing: Drawing, count: int, num_prefixes: int, prefix_len: int
) -> list[Session]:
    """Each request begins with one of `num_prefixes` texts; lengths are those of what follows."""
    prefixes = [drawing.writer.prompt(prefix_len, drawing.rng) for _ in range(num_prefixes)]
    sessions = []
    for _ in range(count):
        turn = drawing.turn(drawing.lengths.input_len)
        prefix = prefixes[int(drawing.rng.integers(num_prefixes))]
        tokens = prefix_len + (turn.prompt_tokens or 0)
        joined = Turn(_joined(prefix, turn.prompt), turn.output_tokens, tokens)
        sessions.append(Session((joined,)))
    return sessions


def _joined(prefix: Prompt, rest: Prompt) -> Prompt:
    if isinstance(prefix, str) and isinstance(rest, str):
        return prefix + rest
    ids = [token for part in (prefix, rest) for token in part if isinstance(token, int)]
    return ids


def multi_turn(
    drawing: Drawing, count: int, num_turns: int, turn_len: int, think_time: float
) -> list[Session]:
    """Conversations: the first prompt has the lengths' tokens, later ones add `turn_len`."""
    if drawing.writer.as_ids:
        raise ConfigError("a conversation grows by its answers, so it is sent as text")
    return [
        Session(
            (
                drawing.turn(drawing.lengths.input_len),
                *(drawing.turn(turn_len) for _ in range(num_turns - 1)),
            ),
            think_time=think_time,
        )
        for _ in range(count)
    ]


def lookalikes(writer: Writer, sessions: list[Session], rng: np.random.Generator) -> list[Session]:
    """Sessions of one turn with the lengths of those given and other words, to warm up with."""
    return [
        Session((Turn(writer.prompt(tokens, rng), first.output_tokens, tokens),))
        for first in (session.turns[0] for session in sessions)
        for tokens in [first.prompt_tokens or Lengths().input_len]
    ]
