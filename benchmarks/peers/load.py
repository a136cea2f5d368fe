"""What everybody is given in a round: the same waves of the same prompts, in the same order.

A wave is a number of prompts that start together; the next wave begins when the last of its tokens
has come. Prompts are passages of English, the help texts that come with Python, cut to an exact
number of tokens; each begins elsewhere and none comes twice in a round, so no prefix cache helps.

    check        greedy tokens that are compared before any figure; a warm-up too
    warm-up      each shape once, short
    output@N     N prompts of 130 tokens, 64 tokens out: tokens a second, from start to end
    prefill@N    one prompt of N tokens, one token out: prompt tokens a second
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from tokenizers import Tokenizer

CHECK = "check"
WARM_UP = "warm-up"

CONCURRENT = (1, 8, 16)
PREFILLS = (130, 512, 1500)  # tokens
PROMPT_TOKENS = 130
OUTPUT_TOKENS = 64
CHECKED_PROMPTS = 8
CHECKED_TOKENS = 16
WARM_UP_TOKENS = 4
LONGEST = max(PROMPT_TOKENS + OUTPUT_TOKENS, max(PREFILLS) + 1)  # tokens of a request


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a wave: how many prompts of how many tokens, and how many tokens each is to give."""

    measure: str
    prompts: int
    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Wave:
    measure: str
    prompts: list[list[int]]  # token ids, all of one length
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contestant gave for a wave.

    Attributes:
        tokens: of each prompt.
        times: when each of them was there, in seconds from the wave's start.
    """

    tokens: list[list[int]]
    times: list[list[float]]


OUTPUTS = tuple(Shape(f"output@{n}", n, PROMPT_TOKENS, OUTPUT_TOKENS) for n in CONCURRENT)
PREFILL = tuple(Shape(f"prefill@{n}", 1, n, 1) for n in PREFILLS)
MEASURED = (*OUTPUTS, *PREFILL)


def shapes(samples: int) -> Iterator[Shape]:
    """The waves of a round; each measure `samples` times, in turn."""
    yield Shape(CHECK, CHECKED_PROMPTS, PROMPT_TOKENS, CHECKED_TOKENS)
    for shape in MEASURED:
        tokens = min(WARM_UP_TOKENS, shape.max_tokens)
        yield Shape(WARM_UP, shape.prompts, shape.prompt_tokens, tokens)
    for _ in range(samples):
        yield from MEASURED


class Passages:
    """Cuts prompts out of a long text, at seeded places that are not used twice."""

    def __init__(self, checkpoint: Path, seed: int) -> None:
        tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self._text: list[int] = tokenizer.encode("\n".join(topics.values())).ids
        places = np.random.default_rng(seed).permutation(len(self._text) - LONGEST)
        self._places = iter(places.tolist())

    def cut(self, num: int, length: int) -> list[list[int]]:
        return [self._text[at : at + length] for at in (next(self._places) for _ in range(num))]


def make_round(passages: Passages, samples: int) -> list[Wave]:
    return [
        Wave(shape.measure, passages.cut(shape.prompts, shape.prompt_tokens), shape.max_tokens)
        for shape in shapes(samples)
    ]
