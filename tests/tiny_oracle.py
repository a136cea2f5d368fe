"""What transformers answers to many prompts of a tiny checkpoint, each computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.checkpoints import transformers_model
from tests.oracle import Answer

BATCH = 64


class TinyOracle:
    """Greedy answers of `num_tokens` tokens. Prompts of one length are computed together, since
    for the tiny models it is the calls that take the time.
    """

    def __init__(self, folder: Path, num_tokens: int) -> None:
        self._model = transformers_model(folder)
        self._num_tokens = num_tokens
        self._known: dict[tuple[int, ...], Answer] = {}

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[Answer]:
        by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for prompt in dict.fromkeys(map(tuple, prompts)):
            if prompt not in self._known:
                by_length[len(prompt)].append(prompt)
        for unknown in by_length.values():
            for start in range(0, len(unknown), BATCH):
                self._compute(unknown[start : start + BATCH])
        return [self._known[tuple(prompt)] for prompt in prompts]

    @torch.inference_mode()
    def _compute(self, prompts: list[tuple[int, ...]]) -> None:
        """Prompts of one length, so no padding and no mask is needed."""
        ids, cache = torch.tensor(prompts), None
        tokens, margins = [], []
        for _ in range(self._num_tokens):
            output = self._model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            cache = output.past_key_values
            logits, best = output.logits[:, -1].topk(2)
            ids = best[:, :1]
            tokens.append(best[:, 0])
            margins.append(logits[:, 0] - logits[:, 1])
        columns = zip(
            torch.stack(tokens, 1).tolist(), torch.stack(margins, 1).tolist(), strict=True
        )
        for prompt, (output_ids, differences) in zip(prompts, columns, strict=True):
            name = f"{len(prompt)} tokens {list(prompt[:4])}..."
            self._known[prompt] = Answer(name, list(prompt), output_ids, differences)
