"""What the attention kernels ask of their arguments, and the constants that follow from them.

Order of the checks: device, dtype, shape, stride. Lengths and page ids are on the device and are
trusted: seq_lens[r] tokens must fit row r's pages, and those pages must be in the pool.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pdrt.kernels.checks import check, check_contiguous, check_strides
from pdrt.kernels.launch import INTERPRETED
from pdrt.kernels.tiles import head_tiles

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
STRIDE_UNIT = 8  # strides are multiples of it, so that 16 bytes are read at once


def check_device(name: str, tensor: Tensor) -> None:
    """On a GPU, any of them; with TRITON_INTERPRET=1 on the CPU.

    Raises:
        ValueError: it is elsewhere.
    """
    expected = "cpu" if INTERPRETED else "cuda"
    if tensor.device.type != expected:
        where = "Triton's interpreter runs" if INTERPRETED else "Triton kernels run"
        raise ValueError(f"{name} is on {tensor.device}; {where} on {expected}")


def check_attention(query: Tensor, kv_layer: Tensor, page_table: Tensor, seq_lens: Tensor) -> None:
    """Those arguments that decode and prefill have in common.

    Raises:
        ValueError: one does not fit; names it.
    """
    num_tokens, num_heads, head_dim = query.shape
    num_pages, _, num_kv_heads, page_size, _ = kv_layer.shape
    num_rows, device = len(seq_lens), query.device
    check_device("query", query)
    if query.dtype not in FLOATS:
        raise ValueError(f"query is {query.dtype}; give one of {FLOATS}")
    shape = (num_pages, 2, num_kv_heads, page_size, head_dim)
    check("kv_layer", kv_layer, query.dtype, shape, device)
    check("page_table", page_table, torch.int32, (num_rows, page_table.shape[1]), device)
    check("seq_lens", seq_lens, torch.int32, (num_rows,), device)
    if num_heads % num_kv_heads:
        raise ValueError(f"query has {num_heads=}; give a multiple of {num_kv_heads=}")
    if page_size % 16 or not 16 <= page_size <= 256:
        raise ValueError(f"kv_layer has {page_size=}; give a multiple of 16 in 16 .. 256")
    for name, tensor in (("query", query), ("kv_layer", kv_layer)):
        check_strides(name, tensor, (1,))
        if any(stride % STRIDE_UNIT for stride in tensor.stride()[:-1]):
            strides = tensor.stride()
            raise ValueError(f"{name} has {strides=}; give multiples of {STRIDE_UNIT}")
    check_strides("page_table", page_table, (1,))
    check_contiguous("seq_lens", seq_lens)


def check_results(query: Tensor, out: Tensor | None, lse: Tensor | None) -> Tensor:
    """out as given, or a new one like query.

    Raises:
        ValueError: out or lse does not fit.
    """
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    check("out", out, query.dtype, query.shape, query.device)
    check_strides("out", out, (1,))
    if lse is not None:
        check("lse", lse, torch.float32, query.shape[:2], query.device)
        check_contiguous("lse", lse)
    return out


def head_constants(head_dim: int, group: int) -> dict[str, Any]:
    """Constants that both kernels have for a head_dim and query heads of one KV head."""
    first, second = head_tiles(head_dim)
    return {"HEAD_DIM": head_dim, "FIRST": first, "SECOND": second, "GROUP": group}
