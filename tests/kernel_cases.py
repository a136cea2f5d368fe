"""Inputs for the kernels, and the measure of their error.

Pages come in a scattered order and hold NaN wherever no token was written, so a read of a wrong
place shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

NUM_LAYERS = 2  # of which LAYER is used: the layer's view of the pool is not contiguous
LAYER = 1
GUARD = 256  # elements of NaN on either side


@dataclass(frozen=True)
class AttentionCase:
    """Arguments of paged_attention."""

    query: Tensor  # [num_tokens, num_heads, head_dim], a view of packed q | k | v
    kv_layer: Tensor  # [num_pages, 2, num_kv_heads, page_size, head_dim]
    page_table: Tensor  # [num_rows, max_pages] int32
    cu_seqlens_q: Tensor  # [num_rows + 1] int32
    seq_lens: Tensor  # [num_rows] int32
    scale: float
    window: int = 0

    def run(self, op: Callable[..., Tensor]) -> Tensor:
        return op(
            self.query,
            self.kv_layer,
            self.page_table,
            self.cu_seqlens_q,
            self.seq_lens,
            self.scale,
            window=self.window,
        )

    def to(self, dtype: torch.dtype) -> AttentionCase:
        return replace(self, query=self.query.to(dtype), kv_layer=self.kv_layer.to(dtype))

    def seen(self, row: int) -> range:
        """The positions of a row that one of its new tokens sees."""
        starts, end = self.cu_seqlens_q.tolist(), self.seq_lens[row].item()
        own = end - (starts[row + 1] - starts[row])  # the first new token's position
        return range(max(0, own - self.window + 1) if self.window else 0, end)

    def with_kv_outside(self, value: float) -> AttentionCase:
        """The same, with value in every slot that no new token sees."""
        layer = torch.full_like(self.kv_layer, value)
        page_size = layer.shape[3]
        for row, pages in enumerate(self.page_table.tolist()):
            for position in self.seen(row):
                slot = pages[position // page_size], ..., position % page_size, slice(None)
                layer[slot] = self.kv_layer[slot]
        return replace(self, kv_layer=layer)

    def leading(self, num_rows: int) -> AttentionCase:
        """The first rows alone."""
        bounds = self.cu_seqlens_q[: num_rows + 1]
        return replace(
            self,
            query=self.query[: bounds[-1].item()],
            page_table=self.page_table[:num_rows],
            cu_seqlens_q=bounds,
            seq_lens=self.seq_lens[:num_rows],
        )

    def rows(self, spans: Sequence[tuple[int, int, int]]) -> AttentionCase:
        """Other rows over the same KV: (row, first position, one past the last) of new tokens.

        Only for cases whose rows have all their tokens in the query.
        """
        starts = self.cu_seqlens_q.tolist()
        tokens = [starts[row] + i for row, start, end in spans for i in range(start, end)]
        bounds = [0]
        for _, start, end in spans:
            bounds.append(bounds[-1] + end - start)
        return replace(
            self,
            query=self.query[tokens],
            page_table=self.page_table[[row for row, _, _ in spans]].contiguous(),
            cu_seqlens_q=int32(bounds),
            seq_lens=int32([end for _, _, end in spans]),
        )


def attention_case(
    lens: Sequence[tuple[int, int]],
    *,
    head_dim: int = 16,
    num_heads: int = 2,
    num_kv_heads: int = 1,
    page_size: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    page_seed: int = 0,
    window: int = 0,
) -> AttentionCase:
    """Rows of (new tokens, all tokens): the tokens drawn by seed, their pages by page_seed."""
    random = torch.Generator().manual_seed(seed)
    counts = [-(-seq_len // page_size) for _, seq_len in lens]
    num_pages = sum(counts) + 2
    order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(page_seed)).int()
    shape = (num_pages, NUM_LAYERS, 2, num_kv_heads, page_size, head_dim)
    layer = torch.full(shape, float("nan"), dtype=dtype)[:, LAYER]
    page_table = torch.zeros(len(lens), max(counts, default=1), dtype=torch.int32)
    queries, used = [], 0
    for row, (new, seq_len) in enumerate(lens):
        tokens = torch.randn(seq_len, num_heads + 2 * num_kv_heads, head_dim, generator=random)
        pages = order[used : used + counts[row]]
        used += counts[row]
        page_table[row, : counts[row]] = pages
        write_kv(layer, pages, tokens[:, num_heads:].to(dtype))
        queries.append(tokens[seq_len - new :].to(dtype))
    packed = torch.cat(queries) if queries else torch.empty(0, num_heads + 2, head_dim, dtype=dtype)
    return AttentionCase(
        query=packed[:, :num_heads],
        kv_layer=layer,
        page_table=page_table,
        cu_seqlens_q=int32([0, *torch.tensor([new for new, _ in lens]).cumsum(0).tolist()]),
        seq_lens=int32([seq_len for _, seq_len in lens]),
        scale=head_dim**-0.5,
        window=window,
    )


def write_kv(layer: Tensor, pages: Tensor, kv: Tensor) -> None:
    """kv [seq_len, 2 * num_kv_heads, head_dim]: keys, then values, to the pages in order."""
    page_size = layer.shape[3]
    keys, values = kv.chunk(2, dim=1)
    for i, page in enumerate(pages.tolist()):
        part = slice(i * page_size, (i + 1) * page_size)
        length = len(keys[part])
        layer[page, 0, :, :length] = keys[part].transpose(0, 1)
        layer[page, 1, :, :length] = values[part].transpose(0, 1)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def int32(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def beside_nan(tensor: Tensor) -> Tensor:
    """A copy with NaN before and after it; of bytes, those of a NaN."""
    fill = 0xFF if tensor.dtype is torch.uint8 else float("nan")
    memory = torch.full((tensor.numel() + 2 * GUARD,), fill, dtype=tensor.dtype)
    return memory[GUARD:-GUARD].copy_(tensor.flatten()).view(tensor.shape)


def assert_nan_after(tensor: Tensor) -> None:
    """Nothing was written behind a tensor of `beside_nan`."""
    after = tensor.as_strided((GUARD,), (1,), tensor.storage_offset() + tensor.numel())
    assert after.isnan().all()


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def assert_as_exact_as_torch(result: Tensor, torch_result: Tensor, exact: Tensor) -> None:
    """The error against float64 is at most twice that of torch in the same dtype, and a last bit
    of float32 or two: torch may be lucky, and a GPU divides and exponentiates to 2 ulp."""
    assert result.dtype == torch_result.dtype
    error = (result.double() - exact).abs().max().item()
    largest = exact.abs().nan_to_num(posinf=0.0).max().item()
    allowed = 2 * (torch_result.double() - exact).abs().max().item() + 1e-6 + 2**-22 * largest
    assert error <= allowed, (error, allowed)
