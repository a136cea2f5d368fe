"""Norms, activations, rotation with KV write: GB/s of what must be read and written once.

A case's inputs are random and its cache is cold: calls on several sets of inputs, with outputs of
their own, are timed as one graph, since events around a single one would add a tenth. Norms add to
a residual, as they do in a model.
Peers are torch's own: eager formulas (reference.py), F.layer_norm and F.rms_norm after an addition,
and for the rotation eager code that writes with index_copy_.

    python benchmarks/kernels/bench_elementwise.py --output elementwise.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from pdrt.bench.gpu_bench import Case, Options, close, run_bench
from pdrt.bench.gpu_timing import num_rotations, random_bits
from pdrt.kernels import reference
from pdrt.kernels.activations import gelu_tanh, silu_and_mul
from pdrt.kernels.layer_norm import layer_norm
from pdrt.kernels.rms_norm import rms_norm
from pdrt.kernels.rope_kv_write import rope_kv_write

TOLERANCE = 1e-2  # relative, of bfloat16 against float32
EPS = 1e-5
PAGE_SIZE = 16
ITEM = 2  # bytes of bfloat16


@dataclass(frozen=True)
class Heads:
    """A model's heads in rope_kv_write."""

    model: str
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int

    @property
    def width(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def bytes_a_token(self) -> int:
        """k and v read and written whole, of q what is rotated; the angles are in the cache."""
        kv = 2 * self.num_kv_heads * self.head_dim
        return 2 * ITEM * (kv + self.num_heads * self.rotary_dim)


PHI_2 = Heads("phi-2", 32, 32, 80, 32)
LLAMA_8B = Heads("llama-8b", 32, 8, 128, 128)


def cases(options: Options) -> Iterator[Case]:
    token_counts = (3,) if options.tiny else (64, 4096) if options.quick else (1, 64, 4096, 16384)
    for tokens in token_counts:
        yield norm_case("layer_norm", tokens, 2560, options.device)
        yield norm_case("rms_norm", tokens, 4096, options.device)
        yield activation_case("gelu_tanh", tokens, 10240, options.device)
        yield activation_case("silu_and_mul", tokens, 14336, options.device)
        for heads in (PHI_2, LLAMA_8B):
            yield rope_case(heads, tokens, options.device)


def rows(num_rows: int, size: int, device: torch.device) -> Tensor:
    return random_bits(num_rows * size, device).view(num_rows, size)


def target(name: str, tokens: int) -> str | None:
    """Targets are set for what fills the card, and for phi-2's and Llama's sizes."""
    return f"{name}_4k" if tokens == 4096 else None


def norm_case(op: str, tokens: int, size: int, device: torch.device) -> Case:
    weights = [random_bits(size, device) for _ in range(2 if op == "layer_norm" else 1)]
    moved = ITEM * size * (4 * tokens + len(weights))
    sets = [
        (rows(tokens, size, device), rows(tokens, size, device))
        for _ in range(num_rotations(moved, device))
    ]
    outputs = [torch.empty_like(x) for x, _ in sets]
    ours: Callable[..., Tensor] = layer_norm if op == "layer_norm" else rms_norm
    twin, library = getattr(reference, op), getattr(functional, op)

    def check() -> None:
        x, residual = sets[0]
        wide = [tensor.float() for tensor in (x, *weights)]
        expected = twin(*wide, EPS, residual.float())
        close(ours(x, *weights, EPS, residual.clone()), expected, TOLERANCE)

    def in_two_steps(x: Tensor, residual: Tensor) -> Tensor:
        return library(residual.add_(x), (size,), *weights, eps=EPS)

    return Case(
        op=op,
        shape={"tokens": tokens, "size": size},
        call=[
            partial(ours, x, *weights, EPS, residual, out=out)
            for (x, residual), out in zip(sets, outputs, strict=True)
        ],
        check=check,
        bytes_moved=moved,
        measure=target(op, tokens),
        peers={
            "eager": [partial(twin, x, *weights, EPS, residual) for x, residual in sets],
            "torch": [partial(in_two_steps, *each) for each in sets],
        },
    )


def activation_case(op: str, tokens: int, size: int, device: torch.device) -> Case:
    gated = op == "silu_and_mul"
    width = 2 * size if gated else size
    moved = ITEM * tokens * (width + size)
    inputs = [rows(tokens, width, device) for _ in range(num_rotations(moved, device))]
    outputs = [torch.empty_like(x[:, :size], memory_format=torch.contiguous_format) for x in inputs]
    ours, twin = (silu_and_mul if gated else gelu_tanh), getattr(reference, op)

    def by_torch(x: Tensor) -> Tensor:
        if gated:
            return functional.silu(x[:, :size]) * x[:, size:]
        return functional.gelu(x, approximate="tanh")

    return Case(
        op=op,
        shape={"tokens": tokens, "size": size},
        call=[partial(ours, *each) for each in zip(inputs, outputs, strict=True)],
        check=lambda: close(ours(inputs[0]), twin(inputs[0].float()), TOLERANCE),
        bytes_moved=moved,
        peers={
            "eager": [partial(twin, x) for x in inputs],
            "torch": [partial(by_torch, x) for x in inputs],
        },
    )


def rope_case(heads: Heads, tokens: int, device: torch.device) -> Case:
    moved = tokens * heads.bytes_a_token
    num_pages = -(-tokens // PAGE_SIZE) + 1
    shape = (num_pages, 2, heads.num_kv_heads, PAGE_SIZE, heads.head_dim)
    sets = [
        (rows(tokens, heads.width, device), torch.zeros(shape, dtype=torch.bfloat16, device=device))
        for _ in range(num_rotations(moved, device))
    ]
    slots = torch.randperm(num_pages * PAGE_SIZE, device=device)[:tokens].int()
    positions = torch.arange(tokens, dtype=torch.int32, device=device) % 2048
    angles = torch.rand(2048, heads.rotary_dim // 2, device=device) * 6
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)
    arguments = (slots, positions, cos_sin, heads.num_heads, heads.num_kv_heads)
    with_copies, long = partial(with_index_copy, heads), slots.long()

    def run(op: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        qkv, layer = sets[0]
        written = layer.to(dtype, copy=True)
        return op(qkv.to(dtype, copy=True), written, *arguments), written

    def check() -> None:
        for got, expected in zip(
            run(rope_kv_write, torch.bfloat16),
            run(reference.rope_kv_write, torch.float32),
            strict=True,
        ):
            close(got, expected, TOLERANCE)

    return Case(
        op="rope_kv_write",
        shape={"tokens": tokens, "model": heads.model},
        call=[partial(rope_kv_write, *each, *arguments) for each in sets],
        check=check,
        bytes_moved=moved,
        measure=target("rope_kv_write", tokens) if heads is PHI_2 else None,
        peers={"index_copy": [partial(with_copies, *each, long, *arguments) for each in sets]},
    )


def with_index_copy(
    heads: Heads,
    qkv: Tensor,
    layer: Tensor,  # [num_pages, 2, num_kv_heads, PAGE_SIZE, head_dim]
    slots: Tensor,  # [tokens] int64
    _: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    *_heads: int,
) -> None:
    """Eager torch into pages whose token comes first, the layout that index_copy_ can write."""
    packed = qkv.view(len(qkv), -1, heads.head_dim)
    turning = packed[:, : heads.num_heads + heads.num_kv_heads]
    cos, sin = cos_sin[positions].to(qkv.dtype).unsqueeze(1).chunk(2, dim=-1)
    first, second = turning[..., : heads.rotary_dim].chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    turning[..., : heads.rotary_dim] = turned
    flat = layer.view(-1, 2 * heads.num_kv_heads * heads.head_dim)
    flat.index_copy_(0, slots, packed[:, heads.num_heads :].flatten(1))


if __name__ == "__main__":
    sys.exit(run_bench("elementwise", cases, sys.argv[1:], __doc__))
