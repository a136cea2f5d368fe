"""Rows of the serving bench that have a target of their own: the decode step and the hand-off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from pdrt.bench.burst import WARM_UP_TOKENS, Run, answer
from pdrt.engine import Engine
from pdrt.sampling_params import SamplingParams

NUM_HANDOFFS = 20
STEP_TOKENS = 64  # decoded by each stream where the decode step is measured

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

    Bytes: all weights once, and the KV of each stream's mean context.
    """
    context = engine.limits.max_model_len // 2
    rng = np.random.default_rng(batch)
    prompts = rng.integers(3, engine.limits.vocab_size, (batch, context)).tolist()
    paces = asyncio.run(token_paces(engine, prompts))
    summary = engine.startup_summary()
    sizes = {key: float(str(summary[key])) for key in ("weight_bytes", "kv_bytes", "kv_tokens")}
    kv_token = sizes["kv_bytes"] / sizes["kv_tokens"]
    moved = sizes["weight_bytes"] + batch * (context + STEP_TOKENS / 2) * kv_token
    times = microseconds(paces)
    gb_s = moved / times["p50"] / 1e3
    return {
        "op": "decode_step",
        "batch": batch,
        "context": context,
        "measure": f"decode_step_b{batch}",
        "us": times,
        "bytes": round(moved),
        "gb_s": round(gb_s, 1),
        "share_of_copy": round(gb_s / copy_gb_s, 4),
    }


async def token_paces(engine: Engine, prompts: Sequence[list[int]]) -> list[float]:
    """Seconds a token of each stream, while all of them decode."""
    params = SamplingParams(
        temperature=0.0, max_tokens=STEP_TOKENS + WARM_UP_TOKENS, ignore_eos=True
    )

    async def run(prompt: list[int]) -> Run:
        outputs = engine.async_generate(prompt, params)
        return [(time.monotonic(), len(each.outputs[0].token_ids)) async for each in outputs]

    runs = await asyncio.gather(*(run(prompt) for prompt in prompts))
    start = max(run[0][0] for run in runs)  # the last prompt's first token
    end = min(run[-1][0] for run in runs)
    return [pace for run in runs if (pace := _pace(run, start, end)) is not None]


def _pace(run: Run, start: float, end: float) -> float | None:
    within = [(at, count) for at, count in run if start <= at <= end]
    tokens = within[-1][1] - within[0][1] if within else 0
    return (within[-1][0] - within[0][0]) / tokens if tokens else None
