"""Loads from files: conversations, prompts, and traces that give lengths and times only.

    sharegpt   JSON: [{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", ...}]}]
    jsonl      {"prompt": ...} or {"messages": [...]}, with "output_tokens" and "timestamp" (s) if
               wanted, a line each
    mooncake   {"timestamp": ms, "input_length": n, "output_length": m, "hash_ids": [...]}, a line
               each; an id stands for 512 tokens, so equal ids are equal text
    burstgpt   CSV with Timestamp (s), Request tokens, Response tokens

Where a file has lengths only, words are drawn for them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pdrt.bench.load.prompts import Writer
from pdrt.bench.load.sessions import Session, Turn
from pdrt.errors import ConfigError

MOONCAKE_BLOCK = 512  # tokens that one of its hash ids stands for
SHORTEST, LONGEST_PROMPT, LONGEST = 4, 1024, 2048  # tokens: what is kept of ShareGPT, as others do


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read.

    output_len: of requests for which the file gives none; None: it must.
    length_scale: lengths are multiplied by it, for models with a shorter context.
    """

    path: Path
    writer: Writer
    seed: int
    output_len: int | None = None
    length_scale: float = 1.0

    def scaled(self, tokens: float) -> int:
        return max(1, round(tokens * self.length_scale))


def read(kind: str, reading: Reading, count: int, first: int = 0) -> list[Session]:
    """`count` of the file's requests from number `first` on, or as many as there are.

    Raises:
        ConfigError: there is no such file, it has another form, or nothing in it can be sent.
    """
    try:
        sessions = list(islice(READERS[kind](reading), first, first + count))
    except OSError as error:
        raise ConfigError(f"--dataset-path: {reading.path} cannot be read: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--dataset-path: {reading.path} is not of the form {kind}: "
            f"{type(error).__name__}: {error}"
        ) from None
    if not sessions and not first:
        raise ConfigError(f"--dataset-path: {reading.path} has no request that can be sent")
    return sessions


def sharegpt(reading: Reading) -> Iterator[Session]:
    """The first question of each conversation, with its answer's length."""
    for entry in json.loads(reading.path.read_text()):
        said = entry["conversations"]
        if len(said) < 2:
            continue
        prompt, answer = said[0]["value"], said[1]["value"]
        tokens = reading.writer.length(prompt)
        output = reading.output_len or reading.writer.length(answer)
        if output is None:
            raise ValueError("the answers' lengths need --tokenizer, or give --output-len")
        if tokens is not None and not _is_usual(tokens, output, bool(reading.output_len)):
            continue
        yield Session((Turn(prompt, output, tokens),))


def _is_usual(tokens: int, output: int, output_is_given: bool) -> bool:
    too_short = tokens < SHORTEST or (output < SHORTEST and not output_is_given)
    return not too_short and tokens <= LONGEST_PROMPT and tokens + output <= LONGEST


def jsonl(reading: Reading) -> Iterator[Session]:
    for row in _lines(reading.path):
        prompt = row["messages"] if "messages" in row else row["prompt"]
        output = row.get("output_tokens", reading.output_len)
        if output is None:
            raise ValueError('a line has no "output_tokens"; give --output-len')
        tokens = reading.writer.length(prompt) if isinstance(prompt, str) else None
        at = row.get("timestamp")
        yield Session((Turn(prompt, int(output), tokens),), None if at is None else float(at))


def mooncake(reading: Reading) -> Iterator[Session]:
    block = reading.scaled(MOONCAKE_BLOCK)
    for row in _lines(reading.path):
        tokens = reading.scaled(row["input_length"])
        parts = [
            reading.writer.prompt(block, np.random.default_rng((reading.seed, each)))
            for each in row["hash_ids"]
        ]
        prompt = _cut(parts, tokens)
        output = reading.output_len or reading.scaled(row["output_length"])
        yield Session((Turn(prompt, output, tokens),), row["timestamp"] / 1000)


def _cut(parts: list[str | list[int]], tokens: int) -> str | list[int]:
    """The first tokens of all parts together; of texts, the first words, each one token."""
    if parts and isinstance(parts[0], str):
        words = [word for part in parts for word in str(part).split()]
        return " " + " ".join(words[:tokens])
    return [token for part in parts for token in part if isinstance(token, int)][:tokens]


def burstgpt(reading: Reading) -> Iterator[Session]:
    """Without the requests that failed when the trace was taken: they have no answer."""
    rng = np.random.default_rng(reading.seed)
    with reading.path.open(newline="") as file:
        for row in csv.DictReader(file):
            answered = int(float(row["Response tokens"]))
            if answered < 1:
                continue
            tokens = reading.scaled(float(row["Request tokens"]))
            output = reading.output_len or reading.scaled(answered)
            turn = Turn(reading.writer.prompt(tokens, rng), output, tokens)
            yield Session((turn,), float(row["Timestamp"]))


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open() as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


WITH_TEXT = ("sharegpt", "jsonl")  # whose prompts no seed changes

READERS: Mapping[str, Callable[[Reading], Iterator[Session]]] = {
    "sharegpt": sharegpt,
    "jsonl": jsonl,
    "mooncake": mooncake,
    "burstgpt": burstgpt,
}


def timed(sessions: list[Session], speed: float) -> list[Session]:
    """At the trace's own times, `speed` times as fast, the first one at 0.

    Raises:
        ConfigError: there is a request without a time.
    """
    times = [session.at for session in sessions if session.at is not None]
    if len(times) < len(sessions):
        raise ConfigError("--arrivals trace needs a time stamp for every request of the dataset")
    start = min(times)
    return [each.arriving((at - start) / speed) for each, at in zip(sessions, times, strict=True)]
