"""What rope_kv_write.py is compiled for, offline: heads of models that are served."""

from __future__ import annotations

import torch

from pdrt.kernels.launch import POINTERS, CompileCase
from pdrt.kernels.rope_kv_write import head_parts, rope_kv_write_kernel


def compile_cases() -> list[CompileCase]:
    """Heads of the models that are served: (heads, kv_heads, head_dim, rotary_dim)."""
    bf16, fp32 = torch.bfloat16, torch.float32
    return [
        _compile_case("phi-2", (32, 32, 80, 32), bf16),
        _compile_case("phi-2 bias", (32, 32, 80, 32), bf16, bias=True),
        _compile_case("phi-2", (32, 32, 80, 32), fp32),
        _compile_case("phi-3", (32, 32, 96, 96), bf16),
        _compile_case("llama-8b", (32, 8, 128, 128), bf16),
        _compile_case("smollm2", (9, 3, 64, 64), bf16),
        _compile_case("qwen3", (16, 8, 128, 128), bf16, norms=True),
        _compile_case("gpt-j", (16, 16, 256, 64), bf16, interleaved=True),
        _compile_case("rotary 20 of 80", (32, 32, 80, 20), bf16),
    ]


def _compile_case(
    model: str,
    heads: tuple[int, int, int, int],
    dtype: torch.dtype,
    norms: bool = False,
    bias: bool = False,
    interleaved: bool = False,
) -> CompileCase:
    num_heads, num_kv_heads, head_dim, rotary_dim = heads
    parts = head_parts(num_heads + 2 * num_kv_heads, head_dim, rotary_dim)
    pointer, stride = POINTERS[dtype], "i32:16"
    return CompileCase(
        name=f"rope_kv_write {model} {str(dtype).removeprefix('torch.')}",
        kernel=rope_kv_write_kernel,
        arguments={
            "qkv": pointer,
            "kv": pointer,
            "slot_mapping": "*i32:16",
            "positions": "*i32:16",
            "cos_sin": "*fp32:16",
            "q_norm": pointer if norms else None,
            "k_norm": pointer if norms else None,
            "bias": pointer if bias else None,
            "norm_eps": "fp32",
            "qkv_stride": stride,
            "page_stride": stride,
            "value_offset": stride,
            "head_stride": stride,
            "NUM_HEADS": num_heads,
            "NUM_KV_HEADS": num_kv_heads,
            "HEAD_DIM": head_dim,
            "HALF": rotary_dim // 2,
            "PAGE_SIZE": 16,
            "INTERLEAVED": interleaved,
            "BLOCK_HEADS": parts.block_heads,
            "HALF_0": parts.half[0],
            "HALF_1": parts.half[1],
            "REST_0": parts.rest[0],
            "REST_1": parts.rest[1],
        },
        num_warps=parts.warps,
    )
