"""The CPU backend: the operations of kernels/README.md on tensors, computed by pdrt._C.

Here are the two that read and write pages; those that work row by row come from cpu_rows.py, those
that read weights from cpu_linear.py.
Arguments are checked once, here, in a fixed order: device, dtype, shape, stride. Lengths and page
ids are checked in C++. Everything below trusts them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pdrt import _C
from pdrt.kernels.checks import check, check_float, check_strides, check_whole
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
    num_tokens, num_heads, head_dim = query.shape
    num_pages, _, num_kv_heads, page_size, _ = kv_layer.shape
    num_rows, max_pages = page_table.shape
    check_float("query", query, (num_tokens, num_heads, head_dim))
    check("kv_layer", kv_layer, query.dtype, (num_pages, 2, num_kv_heads, page_size, head_dim))
    check_whole("page_table", page_table, torch.int32, (num_rows, max_pages))
    check_whole("cu_seqlens_q", cu_seqlens_q, torch.int32, (num_rows + 1,))
    check_whole("seq_lens", seq_lens, torch.int32, (num_rows,))
    if num_heads % num_kv_heads:
        raise ValueError(f"query has {num_heads=}; give a multiple of {num_kv_heads=}")
    if page_size % 16:
        raise ValueError(f"kv_layer has {page_size=}; give a multiple of 16")
    check_strides("query", query, (head_dim, 1))
    check_strides("kv_layer", kv_layer, (head_dim, 1))
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype)
    else:
        check_whole("out", out, query.dtype, query.shape)
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
        window=window,
        scale=scale,
        is_bfloat16=query.dtype is torch.bfloat16,
    )
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
    num_tokens = qkv.shape[0]
    num_pages, _, _, page_size, head_dim = kv_layer.shape
    max_len, rotary_dim = cos_sin.shape
    num_packed = num_heads + 2 * num_kv_heads
    check_float("qkv", qkv, (num_tokens, num_packed * head_dim))
    check("kv_layer", kv_layer, qkv.dtype, (num_pages, 2, num_kv_heads, page_size, head_dim))
    check_whole("slot_mapping", slot_mapping, torch.int32, (num_tokens,))
    check_whole("positions", positions, torch.int32, (num_tokens,))
    check_whole("cos_sin", cos_sin, torch.float32, (max_len, rotary_dim))
    for name, norm in _head_norms(q_norm, k_norm).items():
        check_whole(name, norm, qkv.dtype, (head_dim,))
    if rotary_dim > head_dim or rotary_dim % 2:
        raise ValueError(f"cos_sin has {rotary_dim=}; give an even one up to {head_dim=}")
    check_strides("qkv", qkv, (1,))
    check_strides("kv_layer", kv_layer, (head_dim, 1))
    page_stride, value_offset, head_stride = kv_layer.stride()[:3]
    _C.cpu_rope_kv_write(
        qkv=qkv.data_ptr(),
        kv=kv_layer.data_ptr(),
        slot_mapping=slot_mapping.data_ptr(),
        positions=positions.data_ptr(),
        cos_sin=cos_sin.data_ptr(),
        q_norm=0 if q_norm is None else q_norm.data_ptr(),
        k_norm=0 if k_norm is None else k_norm.data_ptr(),
        norm_eps=norm_eps,
        num_tokens=num_tokens,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        max_len=max_len,
        num_pages=num_pages,
        page_size=page_size,
        qkv_stride=qkv.stride(0),
        page_stride=page_stride,
        value_offset=value_offset,
        head_stride=head_stride,
        is_bfloat16=qkv.dtype is torch.bfloat16,
    )
    return qkv.view(num_tokens, num_packed, head_dim)[:, :num_heads]


def _head_norms(q_norm: Tensor | None, k_norm: Tensor | None) -> dict[str, Tensor]:
    """Those given, by name: both or neither."""
    norms = {"q_norm": q_norm, "k_norm": k_norm}
    given = {name: norm for name, norm in norms.items() if norm is not None}
    if len(given) == 1:
        (name,) = given
        raise ValueError(f"{name} is given alone; give q_norm and k_norm, or neither")
    return given
