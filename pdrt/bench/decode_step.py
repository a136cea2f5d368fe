"""Rows of the serving bench that have a target of their own: the decode step and the hand-off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from statistics import fmean
from typing import Any

import numpy as np

from pdrt.bench.burst import Run, answer
from pdrt.engine import Engine
from pdrt.sampling_params import SamplingParams

NUM_HANDOFFS = 20
STEP_TOKENS = 64  # decoded by each stream, from when all of them decode, for the decode step

Json = dict[str, Any]


def handoff(engine: Engine) -> Json:
    """From sealed pages, after prefill's last kernel, to decode's taking them; decode is idle.

    Beside running streams a request also waits for the end of their step; the points of the
    frontier tell that.
    """
    rng = np.random.default_rng(0)
    length = engine.limits.max_model_len // 2
    prompts = rng.integers(3, engine.limits.vocab_size, (NUM_HANDOFFS, length)).tolist()

    async def one_by_one() -> list[float]:
        times = [(await answer(engine, prompt)).handoff for prompt in prompts]
        return [each for each in times if each is not None]

    times = microseconds(asyncio.run(one_by_one()))
    return {"op": "handoff", "prompt_tokens": length, "measure": "handoff", "us": times}


def microseconds(seconds: Sequence[float]) -> Json:
    p20, p50, p80 = (round(float(each), 1) for each in np.percentile(seconds, [20, 50, 80]) * 1e6)
    return {"p20": p20, "p50": p50, "p80": p80, "count": len(seconds)}


def decode_step(engine: Engine, batch: int, copy_gb_s: float) -> Json:
    """The time of a decode step of `batch` streams, from the pace of their tokens.

    Bytes: all weights once, and the KV of each stream's mean context. Where prompts take so long
    that the first stream is at its end before the last one begins, the row has an error.
    """
    context = engine.limits.max_model_len // 2
    rng = np.random.default_rng(batch)
    prompts = rng.integers(3, engine.limits.vocab_size, (batch, context)).tolist()
    row: Json = {
        "op": "decode_step",
        "batch": batch,
        "context": context,
        "measure": f"decode_step_b{batch}",
    }
    paces, num_tokens = paces_together(asyncio.run(runs_of(engine, prompts)))
    if not paces:
        return {**row, "error": "the streams never decoded all at once"}
    summary = engine.startup_summary()
    sizes = {key: float(str(summary[key])) for key in ("weight_bytes", "kv_bytes", "kv_tokens")}
    kv_token = sizes["kv_bytes"] / sizes["kv_tokens"]
    moved = sizes["weight_bytes"] + batch * (context + num_tokens) * kv_token
    times = microseconds(paces)
    gb_s = moved / times["p50"] / 1e3
    return {
        **row,
        "us": times,
        "bytes": round(moved),
        "gb_s": round(gb_s, 1),
        "share_of_copy": round(gb_s / copy_gb_s, 4),
    }


async def runs_of(engine: Engine, prompts: Sequence[list[int]]) -> list[Run]:
    """Each stream up to STEP_TOKENS tokens after the last prompt's first one.

    Prompts may take longer than many decode steps, so no number of tokens would do for the first.
    """
    params = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)
    waiting = len(prompts)  # that have no token yet

    async def run(prompt: list[int]) -> Run:
        nonlocal waiting
        seen: Run = []
        last = 0  # tokens at which this stream has decoded enough; 0 while others wait
        async with aclosing(engine.async_generate(prompt, params)) as outputs:
            async for each in outputs:
                count = len(each.outputs[0].token_ids)
                waiting -= not seen
                seen.append((time.monotonic(), count))
                if not waiting:
                    last = last or count + STEP_TOKENS
                    if count >= last:
                        break
        return seen

    return list(await asyncio.gather(*(run(prompt) for prompt in prompts)))


def paces_together(runs: Sequence[Run]) -> tuple[list[float], float]:
    """Seconds a token of each stream while all of them decode, and their mean number of tokens.

    No paces where they never do.
    """
    start = max(run[0][0] for run in runs)  # the last prompt's first token
    end = min(run[-1][0] for run in runs)
    paces = [pace for run in runs if (pace := _pace(run, start, end)) is not None]
    counts = [count for run in runs for at, count in run if start <= at <= end]
    return paces, fmean(counts) if counts else 0.0


def _pace(run: Run, start: float, end: float) -> float | None:
    within = [(at, count) for at, count in run if start <= at <= end]
    tokens = within[-1][1] - within[0][1] if within else 0
    return (within[-1][0] - within[0][0]) / tokens if tokens else None
