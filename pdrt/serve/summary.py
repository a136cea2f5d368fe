"""What the server prints once it serves: the model, the memory, the processes, and where to ask.

The curl line at its end works as it is.
"""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections.abc import Iterable, Mapping
from typing import Any

MIB = 1 << 20


def summary(facts: Mapping[str, Any], model_name: str, url: str, warm_up_seconds: float) -> str:
    """The text, from `Engine.startup_summary()` and what the server knows itself."""
    rows = [
        ("model", f"{facts['model']} ({facts['architecture']}), served as {model_name}"),
        ("device", _device(facts)),
        ("context", f"{facts['max_model_len']} tokens"),
        ("KV pool", _pool(facts)),
        ("memory", _memory(facts)),
        ("start-up", f"weights {facts['load_seconds']:.1f} s, warm-up {warm_up_seconds:.2f} s"),
        *_processes(facts),
        ("URL", url),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    return "\n".join(["pdrt is ready", *lines, "", f"  {curl(model_name, url)}", ""])


def curl(model_name: str, url: str) -> str:
    """A shell command that asks the server something."""
    body = {"model": model_name, "prompt": "The capital of France is", "max_tokens": 16}
    header = "Content-Type: application/json"
    words = ["curl", f"{url}/v1/completions", "-H", header, "-d", json.dumps(body)]
    return shlex.join(words)


def _device(facts: Mapping[str, Any]) -> str:
    quantization = facts["quantization"]
    weights = [] if quantization == "none" else [f"{quantization} weights"]
    return ", ".join([facts["device"], facts["dtype"], *weights, facts["disaggregation_mode"]])


def _pool(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['num_pages']} pages of {facts['page_size']} tokens = {facts['kv_tokens']} tokens"
    )


def _memory(facts: Mapping[str, Any]) -> str:
    weights, pool = facts["weight_bytes"] / MIB, facts["kv_bytes"] / MIB
    text = f"weights {weights:.0f} MiB, KV pool {pool:.0f} MiB, each once for all processes"
    use = facts["device_memory"]
    if use is None:
        return text
    workers = "workers not measured, as --num-pages is set"
    if use["workers"]:
        graphs = use["graphs"] / MIB
        workers = f"workers {use['workers'] / MIB:.0f} MiB, of them graphs {graphs:.0f} MiB"
    return f"{text}; {workers}; reserve {use['reserve'] / MIB:.0f} MiB"


def _processes(facts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """One row for each; threads of a worker are those that compute."""
    yield "front end", f"pid {os.getpid()}, {threading.active_count()} threads"
    yield "keeper", f"pid {facts['keeper_pid']}, 1 thread"
    for worker in facts["workers"]:
        noun = "thread" if worker["threads"] == 1 else "threads"
        yield worker["name"], f"pid {worker['pid']}, {worker['threads']} compute {noun}"
