"""The CPU backend: the operations of kernels/README.md on tensors, computed by pdrt._C.

Arguments are checked once, here, in a fixed order: device, dtype, shape, stride. Lengths and page
ids are checked in C++. Everything below trusts them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pdrt import _C
from pdrt.kernels.reference import (
    gelu_tanh,
    layer_norm,
    rms_norm,
    rope_kv_write,
    silu_and_mul,
)

__all__ = [
    "gelu_tanh",
    "layer_norm",
    "paged_attention",
    "rms_norm",
    "rope_kv_write",
    "silu_and_mul",
]

_DTYPES = (torch.float32, torch.bfloat16)


def paged_attention(
    query: Tensor,  # [num_tokens, num_heads, head_dim] float32 or bfloat16, heads contiguous
    kv_layer: Tensor,  # [num_pages, 2, num_kv_heads, page_size, head_dim], dtype of query
    page_table: Tensor,  # [num_rows, max_pages] int32
    cu_seqlens_q: Tensor,  # [num_rows + 1] int32
    seq_lens: Tensor,  # [num_rows] int32
    scale: float,
    out: Tensor | None = None,  # [num_tokens, num_heads, head_dim], contiguous
) -> Tensor:
    """Causal attention of each row's new tokens over all KV of that row.

    A row with q new tokens and seq_len KV in all has its token i at position seq_len - q + i; it
    sees the positions up to its own. Query head h reads KV head h // (num_heads / num_kv_heads).
    The bits of a token's result depend on that token and its KV alone: on neither the other rows,
    the chunk, the page size, the order of pages nor the threads.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    num_tokens, num_heads, head_dim = query.shape
    num_pages, _, num_kv_heads, page_size, _ = kv_layer.shape
    num_rows, max_pages = page_table.shape
    _check_float("query", query, (num_tokens, num_heads, head_dim))
    _check("kv_layer", kv_layer, query.dtype, (num_pages, 2, num_kv_heads, page_size, head_dim))
    _check("page_table", page_table, torch.int32, (num_rows, max_pages))
    _check("cu_seqlens_q", cu_seqlens_q, torch.int32, (num_rows + 1,))
    _check("seq_lens", seq_lens, torch.int32, (num_rows,))
    _require(num_heads % num_kv_heads == 0, f"{num_heads=} is no multiple of {num_kv_heads=}")
    _require(page_size % 16 == 0, f"kv_layer has {page_size=}; give a multiple of 16")
    _check_strides("query", query, (head_dim, 1))
    _check_strides("kv_layer", kv_layer, (head_dim, 1))
    _check_strides("page_table", page_table, (max_pages, 1))
    _check_strides("cu_seqlens_q", cu_seqlens_q, (1,))
    _check_strides("seq_lens", seq_lens, (1,))
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype)
    else:
        _check("out", out, query.dtype, query.shape)
        _check_strides("out", out, (num_heads * head_dim, head_dim, 1))
    page_stride, value_offset, head_stride = kv_layer.stride()[:3]
    _C.cpu_paged_attention(
        out=out.data_ptr(),
        query=query.data_ptr(),
        kv=kv_layer.data_ptr(),
        page_table=page_table.data_ptr(),
        cu_seqlens_q=cu_seqlens_q.data_ptr(),
        seq_lens=seq_lens.data_ptr(),
        num_tokens=num_tokens,
        num_rows=num_rows,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        num_pages=num_pages,
        page_size=page_size,
        max_pages=max_pages,
        query_stride=query.stride(0),
        page_stride=page_stride,
        value_offset=value_offset,
        head_stride=head_stride,
        scale=scale,
        is_bfloat16=query.dtype is torch.bfloat16,
    )
    return out


def _require(good: bool, message: str) -> None:
    if not good:
        raise ValueError(message)


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> None:
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on {tensor.device}, this backend runs on cpu")
    if tensor.dtype is not dtype:
        raise ValueError(f"{name} is {tensor.dtype}, expected {dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def _check_float(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name} is {tensor.dtype}, expected float32 or bfloat16")
    _check(name, tensor, tensor.dtype, shape)


def _check_strides(name: str, tensor: Tensor, last: tuple[int, ...]) -> None:
    """The last strides, in elements; those of dimensions of size 1 say nothing."""
    sizes, strides = tensor.shape[-len(last) :], tensor.stride()[-len(last) :]
    for size, stride, expected in zip(sizes, strides, last, strict=True):
        if size > 1 and stride != expected:
            raise ValueError(f"{name} has last strides {strides}, expected {last}")
