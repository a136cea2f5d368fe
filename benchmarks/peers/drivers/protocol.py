"""What a driver hears and says. Runs with a peer's interpreter: nothing but the standard library.

    stdin    one JSON: {"model": PATH, "dtype": NAME, "threads": N,
                        "waves": [{"prompts": [[token id]], "max_tokens": N}]}
    stdout   one JSON line when the model is loaded: {"ready": SECONDS}; then one for each wave:
             {"tokens": [[token id]], "times": [[seconds]]}

The prompts of a wave are of one length and are given to the peer at once; `times` has when each
token of each prompt was there, counted from that moment. Whatever the peer itself prints goes to
stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

Job = dict  # see above
Tokens = list[list[int]]  # [prompts, their tokens]
# (prompts, max_tokens) -> greedy tokens, the moments (perf_counter) at which each step was done
Generate = Callable[[Tokens, int], tuple[Tokens, list[float]]]


def serve(load: Callable[[Job], Generate]) -> None:
    """Loads the model with `load` and answers the waves one after the other."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    started, job = time.perf_counter(), json.load(sys.stdin)
    generate = load(job)
    _say(answers, {"ready": time.perf_counter() - started})
    for wave in job["waves"]:
        _say(answers, _answer(generate, wave["prompts"], wave["max_tokens"]))


def _answer(generate: Generate, prompts: Tokens, max_tokens: int) -> dict:
    start = time.perf_counter()
    tokens, moments = generate(prompts, max_tokens)
    times = [moment - start for moment in moments]
    if any(len(each) != max_tokens or len(times) != max_tokens for each in tokens):
        raise RuntimeError(f"{max_tokens} tokens were asked for, {[len(t) for t in tokens]} came")
    return {"tokens": tokens, "times": [times] * len(prompts)}


def _say(answers: object, value: dict) -> None:
    print(json.dumps(value), file=answers, flush=True)
