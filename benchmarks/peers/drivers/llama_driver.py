"""llama.cpp's C interface: all sequences of a wave in one batch, step by step.

This is what its server and its llama-batched-bench do for each step, without HTTP, JSON and
Python objects around it: a figure that its own server cannot exceed. The next token is numpy's
argmax of the row of logits, which is faster than llama.cpp's sampler chain over 49,152 candidates.
A context is made for each shape of wave, as large as needed and no larger.
"""

from __future__ import annotations

import sys
import time
from functools import cache

import llama_cpp
import numpy as np
from protocol import Generate, Job, Tokens, serve

PER_STEP = 512  # tokens that are computed together (n_ubatch): llama.cpp's default
LOG_LEVEL_ERROR = 4  # of ggml_log_level, which the Python package does not name


class _Sequences:
    """As many sequences as a wave has prompts, in one context."""

    def __init__(self, model: object, threads: int, num: int, length: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num * length
        params.n_batch = num * length
        params.n_ubatch = PER_STEP
        params.n_seq_max = num
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp made no context for {num} sequences of {length} tokens")
        vocabulary = llama_cpp.llama_model_get_vocab(model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(num * length, 0, 1)

    def step(self, tokens: Tokens, position: int) -> list[int]:
        """Computes each sequence's new tokens, from `position` on; the likeliest next ones."""
        batch, width = self._batch, len(tokens[0])
        batch.n_tokens = len(tokens) * width
        for sequence, row in enumerate(tokens):
            for offset, token in enumerate(row):
                at = sequence * width + offset
                batch.token[at] = token
                batch.pos[at] = position + offset
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = offset == width - 1
        if (code := llama_cpp.llama_decode(self._context, batch)) != 0:
            raise RuntimeError(f"llama_decode of {batch.n_tokens} tokens gave {code}")
        rows = (sequence * width + width - 1 for sequence in range(len(tokens)))
        return [int(np.argmax(self._logits(row))) for row in rows]

    def forget(self) -> None:
        """Empties the KV cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)

    def _logits(self, row: int) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, shape=(self._vocab_size,))


def greedy(sequences: _Sequences, prompts: Tokens, max_tokens: int) -> tuple[Tokens, list[float]]:
    """Tokens of each sequence, and when each step was done."""
    steps, moments, new, position = [], [], prompts, 0
    for _ in range(max_tokens):
        steps.append(sequences.step(new, position))
        moments.append(time.perf_counter())
        position += len(new[0])
        new = [[token] for token in steps[-1]]
    return [list(row) for row in zip(*steps, strict=True)], moments


@llama_cpp.llama_log_callback
def _only_errors(level: int, text: bytes, _: object) -> None:
    if level == LOG_LEVEL_ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr, flush=True)


def load(job: Job) -> Generate:
    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(_only_errors, None)
    model = llama_cpp.llama_model_load_from_file(
        job["model"].encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {job['model']}")

    room = max(wave["max_tokens"] for wave in job["waves"])

    @cache  # made in the warm-up, not in what is measured
    def sequences(num: int, length: int) -> _Sequences:
        return _Sequences(model, job["threads"], num, length)

    def generate(prompts: Tokens, max_tokens: int) -> tuple[Tokens, list[float]]:
        each = sequences(len(prompts), len(prompts[0]) + room)
        each.forget()
        return greedy(each, prompts, max_tokens)

    return generate


if __name__ == "__main__":
    serve(load)
