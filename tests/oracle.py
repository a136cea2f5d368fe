"""The kept answers of transformers to the prompts (tests/make_oracle.py), and the comparison.

Greedy tokens must be equal. One that differs is excused only where transformers itself was
undecided: at its first difference, the two best logits lay less than 1e-4 apart. From there on the
texts go their own ways, so the comparison of that prompt ends. Excuses are counted, and are at
most one in a thousand tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).parent / "data"
EXCUSED_MARGIN = 1e-4
EXCUSED_SHARE = 1e-3


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt and its 64 greedy tokens; `margins` are differences of logits."""

    name: str
    prompt_token_ids: list[int]
    output_token_ids: list[int]
    margins: list[float]


@dataclass(slots=True)
class Excuses:
    """Counts over one run of the tests."""

    num_tokens: int = 0
    num_excused: int = 0

    def add(self, num_tokens: int, excused: bool) -> None:
        self.num_tokens += num_tokens
        self.num_excused += excused
        assert self.num_excused <= max(1.0, EXCUSED_SHARE * self.num_tokens), self


EXCUSES = Excuses()


@cache
def answers() -> tuple[Answer, ...]:
    records = json.loads((DATA / "oracle_smollm2.json").read_text())
    return tuple(Answer(**record) for record in records)


def assert_matches(prompt_index: int, tokens: Sequence[int], excuses: Excuses = EXCUSES) -> None:
    """Asserts that `tokens`, a beginning of the output of one prompt, are the oracle's."""
    assert_equals(answers()[prompt_index], tokens, excuses)


def assert_equals(answer: Answer, tokens: Sequence[int], excuses: Excuses = EXCUSES) -> None:
    """The same for any answer of transformers (tests.checkpoints.greedy)."""
    expected = answer.output_token_ids[: len(tokens)]
    assert len(tokens) == len(expected), "more tokens than the oracle has"
    for step, (token, right) in enumerate(zip(tokens, expected, strict=True)):
        if token != right:
            assert answer.margins[step] < EXCUSED_MARGIN, (
                f"{answer.name}: token {step} is {token}, transformers has {right} with a margin "
                f"of {answer.margins[step]}; up to there they agree"
            )
            excuses.add(step + 1, excused=True)
            return
    excuses.add(len(tokens), excused=False)
