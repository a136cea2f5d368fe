"""The forms in which pdrt.Engine takes prompts and sampling parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

from pdrt.request import SamplingParams

Prompt = str | Sequence[int]  # a text, or its token ids
Prompts = Prompt | Sequence[Prompt]
Params = SamplingParams | dict[str, object] | None
ParamsForEach = Params | Sequence[Params]


def derived_seed(seed: int, number: int) -> int:
    """A seed for the request of this number: the same for the same engine seed, in [0, 2^63)."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def as_params(params: ParamsForEach, num_prompts: int) -> list[Params]:
    """One for each prompt, where one is given for all."""
    if params is None or isinstance(params, (SamplingParams, dict)):
        return [params] * num_prompts
    return list(params)


def as_prompts(prompts: Prompts) -> list[Prompt]:
    """One prompt, as text or token ids, or several."""
    if isinstance(prompts, str):
        return [prompts]
    if prompts and all(isinstance(item, int) for item in prompts):
        return [cast(Sequence[int], prompts)]
    return list(cast(Sequence[Prompt], prompts))
