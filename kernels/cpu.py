"""The CPU backend: the operations of kernels/README.md on tensors, computed by pdrt._C.

Here are the two that read and write pages; those that work row by row come from cpu_rows.py, those
that read weights from cpu_linear.py.
Arguments are checked in C++ (csrc/tensor_argument.h), where they are read at a tenth of the cost:
device, dtype, shape, stride, then lengths and page ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pdrt import _C
from pdrt.kernels.cpu_linear import embedding, linear
from pdrt.kernels.cpu_rows import (
    gelu,
    gelu_tanh,
    gelu_tanh_and_mul,
    layer_norm,
    rms_norm,
    silu_and_mul,
)

__all__ = [
    "embedding",
    "gelu",
    "gelu_tanh",
    "gelu_tanh_and_mul",
    "layer_norm",
    "linear",
    "paged_attention",
    "rms_norm",
    "rope_kv_write",
    "silu_and_mul",
]


def paged_attention(
    query: Tensor,  # [num_tokens, num_heads, head_dim] float32 or bfloat16, heads contiguous
    kv_layer: Tensor,  # [num_pages, 2, num_kv_heads, page_size, head_dim], dtype of query
    page_table: Tensor,  # [num_rows, max_pages] int32
    cu_seqlens_q: Tensor,  # [num_rows + 1] int32
    seq_lens: Tensor,  # [num_rows] int32
    scale: float,
    window: int = 0,
    out: Tensor | None = None,  # [num_tokens, num_heads, head_dim], contiguous
) -> Tensor:
    """Causal attention of each row's new tokens over the KV of that row.

    A row with q new tokens and seq_len KV in all has its token i at position seq_len - q + i; it
    sees the last `window` positions up to its own (Jiang et al. 2023), or with window 0 all of
    them. Query head h reads KV head h // (num_heads / num_kv_heads). Slots that no new token sees
    are not read, but their pages are named in page_table all the same.

    The bits of a token's result depend on that token and the KV that it sees alone: on neither the
    other rows, the chunk, the page size, the order of pages nor the threads.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    out = torch.empty(query.shape, dtype=query.dtype) if out is None else out
    _C.cpu_paged_attention(out, query, kv_layer, page_table, cu_seqlens_q, seq_lens, scale, window)
    return out


def rope_kv_write(
    qkv: Tensor,  # [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim] float32 or bfloat16
    kv_layer: Tensor,  # [num_pages, 2, num_kv_heads, page_size, head_dim], dtype of qkv
    slot_mapping: Tensor,  # [num_tokens] int32: page_id * page_size + offset; -1: not written
    positions: Tensor,  # [num_tokens] int32
    cos_sin: Tensor,  # [max_len, rotary_dim] float32: cos of each pair's angle | sin of it
    num_heads: int,
    num_kv_heads: int,
    q_norm: Tensor | None = None,  # [head_dim], dtype of qkv
    k_norm: Tensor | None = None,  # [head_dim], dtype of qkv
    norm_eps: float = 0.0,
) -> Tensor:
    """Rotates q and k by their positions, writes k and v to their pages.

    Dimension i < rotary_dim / 2 of a head is paired with i + rotary_dim / 2; those from rotary_dim
    on are not rotated. With q_norm and k_norm, each head of q and k is first RMS-normed over
    head_dim and multiplied with that weight; nothing is rounded between the norm and the rotation.

    Returns:
        q, rotated in place: [num_tokens, num_heads, head_dim], a view of qkv.

    Raises:
        ValueError: an argument does not fit; names it. Nothing was written.
    """
    _C.cpu_rope_kv_write(
        qkv,
        kv_layer,
        slot_mapping,
        positions,
        cos_sin,
        num_heads,
        num_kv_heads,
        q_norm,
        k_norm,
        norm_eps,
    )
    head_dim = kv_layer.shape[4]
    return qkv.as_strided((qkv.shape[0], num_heads, head_dim), (qkv.stride(0), head_dim, 1))
