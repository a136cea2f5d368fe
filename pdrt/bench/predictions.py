"""Two models read the same passages: how far apart what they predict is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pdrt.bench.reader import Reader, Tokens

AT_ONCE = 64  # tokens whose logits are in memory together: 13 MB of SmolLM2, for each model


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of each of n tokens, what both models held of it.

    Attributes:
        divergence: [n] float64, KL of the distributions: sum p log(p / q) in nats, p the exact one.
        same: [n] bool, whether the likeliest token was the same.
        losses: [2, n] float64, -log p(token) of the exact model and of the other.
    """

    divergence: Tensor
    same: Tensor
    losses: Tensor

    @staticmethod
    def of(exact: Tensor, other: Tensor, targets: Tensor) -> Predictions:
        """
        Args:
            exact, other: logits [n, vocab_size].
            targets: [n] int64, the tokens that came.
        """
        p, q = (torch.log_softmax(logits.double(), dim=-1) for logits in (exact, other))
        losses = [-each.gather(1, targets[:, None])[:, 0] for each in (p, q)]
        divergence = (p.exp() * (p - q)).sum(-1)
        return Predictions(divergence, p.argmax(-1) == q.argmax(-1), torch.stack(losses))

    @staticmethod
    def all_of(parts: Sequence[Predictions]) -> Predictions:
        return Predictions(
            torch.cat([part.divergence for part in parts]),
            torch.cat([part.same for part in parts]),
            torch.cat([part.losses for part in parts], dim=1),
        )

    def figures(self) -> dict[str, float]:
        exact, other = self.losses.mean(1).exp().tolist()
        return {
            "tokens": len(self.same),
            "kl_mean": self.divergence.mean().item(),
            "kl_max": self.divergence.max().item(),
            "top_1_agreement": self.same.double().mean().item(),
            "perplexity_float32": exact,
            "perplexity": other,
        }


def read(exact: Reader, other: Reader, tokens: Tokens) -> Predictions:
    """Has both read all passages, which are then in their KV but for the last token of each."""
    parts = []
    for row in tqdm(range(len(tokens)), desc="passages", delay=5, mininterval=0.5):
        for start in range(0, tokens.shape[1] - 1, AT_ONCE):
            end = min(start + AT_ONCE, tokens.shape[1] - 1)
            part = tokens[row : row + 1, start:end]
            p, q = (model.logits(row, part, start)[0] for model in (exact, other))
            targets = torch.from_numpy(tokens[row, start + 1 : end + 1].astype(np.int64))
            parts.append(Predictions.of(p, q, targets))
    return Predictions.all_of(parts)


def go_on(model: Reader, tokens: Tokens, count: int) -> Tokens:
    """The likeliest tokens after passages [rows, n] whose first n - 1 the model has read.

    Returns:
        [rows, count]; the first follows the n - 1, and not the last.
    """
    last, found = tokens.shape[1] - 2, []
    following = tokens[:, last : last + 1]
    for position in range(last, last + count):
        logits = model.logits(0, following, position)
        following = logits.argmax(-1).numpy().astype(np.int32)
        found.append(following)
    return np.concatenate(found, axis=1)


def same_until(a: Tokens, b: Tokens) -> list[int]:
    """Of each row, how many tokens are the same before the first that is not."""
    same = np.cumprod(a == b, axis=1)
    lengths: list[int] = same.sum(1).tolist()
    return lengths
