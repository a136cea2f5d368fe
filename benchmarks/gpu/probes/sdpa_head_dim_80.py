"""Does torch's attention take head_dim 80, by which back end, and how fast?

cuDNN, FLASH and EFFICIENT are asked in turn for causal prefill, and for decode of one token, with
phi-2's 32 heads in bfloat16 on random data. Each answer is checked against float32 first; speed is
of true work: 2 * sequence^2 * head_dim * heads for a causal product pair, padding not counted.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from probe import Findings, attempt, main
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

QUESTION = "which of torch's attention back ends take head_dim 80, and how fast they are"
HEAD_DIM = 80
NUM_HEADS = 32
TOKENS = 16_384  # in a batch of prefill, whatever the length
LENGTHS = (512, 1024, 2048, 4096, 8192)
DECODE = ((1, 2048), (8, 2048), (64, 2048))  # batch, context
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
REPEATS = 20

Shape = tuple[int, int, int]  # batch, query length, KV length


def ask(device: int) -> Findings:
    where = f"cuda:{device}"
    return {
        "head_dim": HEAD_DIM,
        "num_heads": NUM_HEADS,
        "back_ends": {name: of_back_end(name, where) for name in BACKENDS},
    }


def of_back_end(name: str, where: str) -> Findings:
    prefill = {str(length): attempt(prefill_of, name, length, where) for length in LENGTHS}
    decode = {
        f"{batch}x{context}": attempt(decode_of, name, batch, context, where)
        for batch, context in DECODE
    }
    return {"prefill": prefill, "decode": decode}


def prefill_of(name: str, length: int, where: str) -> Findings:
    batch = max(1, TOKENS // length)
    micros, error = measure(name, (batch, length, length), where)
    work = 2 * batch * NUM_HEADS * HEAD_DIM * length**2
    return {"median_us": micros, "tflops": round(work / micros / 1e6, 1), "worst_error": error}


def decode_of(name: str, batch: int, context: int, where: str) -> Findings:
    micros, error = measure(name, (batch, 1, context), where)
    num_bytes = 2 * batch * NUM_HEADS * HEAD_DIM * context * 2
    return {"median_us": micros, "gb_per_s": round(num_bytes / micros / 1e3), "worst_error": error}


def measure(name: str, shape: Shape, where: str) -> tuple[float, float]:
    """Median microseconds, and the largest difference from float32 on one sequence."""
    query, key, value = inputs(shape, where)
    causal = shape[1] > 1
    with sdpa_kernel(BACKENDS[name]):
        out = scaled_dot_product_attention(query, key, value, is_causal=causal)
        error = worst_error(out[:1], query[:1], key[:1], value[:1])
        micros = median_micros(
            lambda: scaled_dot_product_attention(query, key, value, is_causal=causal), where
        )
    return micros, error


def inputs(shape: Shape, where: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value, each [batch, NUM_HEADS, length, HEAD_DIM], random bfloat16."""
    batch, query_length, kv_length = shape
    generator = torch.Generator(where).manual_seed(0)

    def random(length: int) -> torch.Tensor:
        size = (batch, NUM_HEADS, length, HEAD_DIM)
        return torch.randn(size, generator=generator, device=where, dtype=torch.bfloat16)

    return random(query_length), random(kv_length), random(kv_length)


def worst_error(
    out: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> float:
    """Largest difference from float32 attention, for the last 64 queries of a sequence."""
    rows = query[:, :, -64:].float()
    scores = rows @ key.float().transpose(-1, -2) / math.sqrt(HEAD_DIM)
    length, seen = key.shape[2], rows.shape[2]
    later = torch.ones(seen, length, dtype=torch.bool, device=query.device).triu(length - seen + 1)
    exact = scores.masked_fill(later, -math.inf).softmax(-1) @ value.float()
    return float((out[:, :, -64:].float() - exact).abs().max())


def median_micros(call: Callable[[], object], where: str) -> float:
    """By events, after three calls to warm up, with 256 MB written in between to clear the L2."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=where)
    times = []
    with torch.cuda.device(where):  # events belong to the current device
        for repeat in range(REPEATS + 3):
            flush.fill_(repeat)
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3)
    return round(float(torch.tensor(times[3:]).median()), 2)


if __name__ == "__main__":
    sys.exit(main(ask, QUESTION))
