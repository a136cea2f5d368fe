"""Cases of the Triton kernels: on the GPU if there is one, else in the interpreter on the CPU."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pdrt.kernels import reference
from tests.kernel_cases import AttentionCase

DEVICE = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
DEVICE = DEVICE or torch.device("cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
NOWHERE = 1 << 24  # a page so far outside any pool that reading it ends the process


def on_device(case: AttentionCase) -> AttentionCase:
    """The KV layer stays a view of a pool, with NaN in the layer before it."""
    pool = torch.stack([torch.full_like(case.kv_layer, float("nan")), case.kv_layer], 1)
    return replace(
        case,
        query=case.query.to(DEVICE),
        kv_layer=pool.to(DEVICE)[:, 1],
        page_table=case.page_table.to(DEVICE),
        cu_seqlens_q=case.cu_seqlens_q.to(DEVICE),
        seq_lens=case.seq_lens.to(DEVICE),
    )


def with_stray_pages(case: AttentionCase, page: int) -> AttentionCase:
    """The same, with `page` in every entry of the page table that no token needs, and one more."""
    page_size = case.kv_layer.shape[3]
    rows, width = case.page_table.shape
    table = torch.full((rows, width + 1), page, dtype=torch.int32)
    for row in range(rows):
        seen = case.seen(row)
        needed = slice(seen.start // page_size, -(-seen.stop // page_size))
        table[row, needed] = case.page_table[row, needed].cpu()
    return replace(case, page_table=table.to(DEVICE))


def exact(case: AttentionCase, soft_cap: float = 0.0) -> tuple[Tensor, Tensor]:
    """(out, lse) in float64."""
    lse = torch.empty(case.query.shape[:2], dtype=torch.float64, device=case.query.device)
    case = case.to(torch.float64)
    return twin(case, soft_cap, lse), lse


def twin(case: AttentionCase, soft_cap: float = 0.0, lse: Tensor | None = None) -> Tensor:
    """What torch makes of it in the dtype of the case."""
    return reference.paged_attention(
        case.query,
        case.kv_layer,
        case.page_table,
        case.cu_seqlens_q,
        case.seq_lens,
        case.scale,
        window=case.window,
        soft_cap=soft_cap,
        lse=lse,
    )
