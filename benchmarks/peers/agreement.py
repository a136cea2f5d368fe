"""Whether all contestants compute the same model: their greedy tokens on the same prompts.

Two correct programs differ in bfloat16 where two tokens are almost equally likely, and from there
on the texts differ. So the tokens before the first difference are counted, and a contestant is
trusted if nearly all first tokens are the same: a wrong conversion would lose those at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Tokens = Sequence[Sequence[int]]

REFERENCES = ("transformers-f32", "pdrt")  # the first of them that ran is compared with
TRUSTED = 0.75  # share of first tokens


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares of first tokens, and of all tokens before a difference, that are the reference's."""

    reference: str
    first_tokens: float
    tokens: float

    @property
    def trusted(self) -> bool:
        return self.first_tokens >= TRUSTED


def agreements(outputs: Mapping[str, Tokens]) -> dict[str, Agreement]:
    """outputs: of each contestant, its greedy tokens; prompts in the same order."""
    if not outputs:
        return {}
    reference = next((name for name in REFERENCES if name in outputs), next(iter(outputs)))
    exact = outputs[reference]
    return {name: _agreement(reference, tokens, exact) for name, tokens in outputs.items()}


def _agreement(reference: str, tokens: Tokens, exact: Tokens) -> Agreement:
    pairs = list(zip(tokens, exact, strict=True))
    alike = [same_tokens(ours, theirs) for ours, theirs in pairs]
    total = sum(len(theirs) for _, theirs in pairs)
    return Agreement(reference, sum(n > 0 for n in alike) / len(pairs), sum(alike) / total)


def same_tokens(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Tokens before the first difference."""
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            return number
    return len(ours)
