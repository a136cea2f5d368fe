"""docs/sampling.md once more, as slowly and plainly as it can be written: lists, floats, loops.

Computes in double precision, step by step. `margin` of an answer says how near the draw came to
another token: a difference between implementations counts only where it is not tiny.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pdrt.sampling_params import SlotParams


@dataclass(frozen=True)
class Drawn:
    token: int
    margin: float


def plain_sample(
    logits: list[float],
    params: SlotParams,
    prompt: list[int],
    output: list[int],
    eos: list[int],
    random: float,
) -> Drawn:
    x = adjust(logits, params, prompt, output, eos)
    if params.temperature < 1e-5:
        order = sorted(range(len(x)), key=lambda t: (-x[t], t))
        return Drawn(order[0], x[order[0]] - x[order[1]])
    return draw([value / params.temperature for value in x], params, random)


def adjust(
    logits: list[float], params: SlotParams, prompt: list[int], output: list[int], eos: list[int]
) -> list[float]:
    x = list(logits)
    for token, bias in params.logit_bias.items():
        x[token] += bias
    for token in set(prompt + output):
        r = params.repetition_penalty
        x[token] = x[token] / r if x[token] > 0 else x[token] * r
    for token in set(output):
        x[token] -= params.frequency_penalty * output.count(token) + params.presence_penalty
    for word in params.bad_words:
        if output[len(output) - len(word) + 1 :] == list(word[:-1]) or len(word) == 1:
            x[word[-1]] = -math.inf
    if len(output) < params.min_tokens:
        for token in [*params.stop_token_ids, *([] if params.ignore_eos else eos)]:
            x[token] = -math.inf
    return x


def draw(x: list[float], params: SlotParams, random: float) -> Drawn:
    largest = max(x)
    q = {token: math.exp(value - largest) for token, value in enumerate(x)}
    margins = [math.inf]
    if params.min_p > 0:
        margins += [abs(value - params.min_p) for value in q.values()]
        q = {token: value for token, value in q.items() if value >= params.min_p}
    order = sorted(q, key=lambda token: (-q[token], token))
    if 0 < params.top_k < len(order):
        margins.append(q[order[params.top_k - 1]] - q[order[params.top_k]])
        order = order[: params.top_k]
    if params.top_p < 1:
        total, reached, kept = sum(q[token] for token in order), 0.0, []
        for token in order:
            kept.append(token)
            reached += q[token] / total
            margins.append(abs(reached - params.top_p))
            if reached >= params.top_p:
                break
        order = kept
    total, reached = sum(q[token] for token in order), 0.0
    for token in sorted(order):
        reached += q[token] / total
        margins.append(abs(reached - random))
        if reached > random:
            return Drawn(token, min(margins))
    raise AssertionError((reached, random))
