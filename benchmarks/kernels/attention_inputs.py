"""What both attention benches share: random pools in a scattered order, checks, and peers.

A pool is laid out as a server's: all layers of a page beside each other, pages in random order.
Peers get the same amount of contiguous keys and values, since none of them reads pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pdrt.bench.gpu_bench import WrongResult, close
from pdrt.bench.gpu_timing import random_bits
from pdrt.kernels import attention_arguments, prefill_attention, reference
from pdrt.kernels.tiles import HeadTiles

PAGE_SIZE = 16
DTYPE = torch.bfloat16
TOLERANCE = 1e-2  # relative, of bfloat16 against float32
SDPA = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


@dataclass(frozen=True)
class Heads:
    head_dim: int
    num_heads: int
    num_kv_heads: int

    @property
    def label(self) -> str:
        return f"{self.num_heads}/{self.num_kv_heads} D{self.head_dim}"

    @property
    def kv_bytes(self) -> int:
        """Of one token in one layer."""
        return 2 * self.num_kv_heads * self.head_dim * DTYPE.itemsize

    @property
    def query_bytes(self) -> int:
        """Of one token: read, and as much written."""
        return 2 * self.num_heads * self.head_dim * DTYPE.itemsize


@dataclass(frozen=True)
class Pool:
    pages: Tensor  # [num_pages, num_layers, 2, num_kv_heads, PAGE_SIZE, head_dim]
    page_table: Tensor  # [num_rows, max_pages] int32
    seq_lens: Tensor  # [num_rows] int32

    @property
    def layers(self) -> tuple[Tensor, ...]:
        return self.pages.unbind(1)


def random_pool(
    heads: Heads, lens: list[int], num_layers: int, device: torch.device, page_size: int = PAGE_SIZE
) -> Pool:
    counts = [-(-length // page_size) for length in lens]
    num_pages, shape = sum(counts), (num_layers, 2, heads.num_kv_heads, page_size, heads.head_dim)
    num_elements = num_pages * torch.Size(shape).numel()
    ids = torch.randperm(num_pages, dtype=torch.int32)
    table = torch.zeros(len(lens), max(counts), dtype=torch.int32)
    for row, own in enumerate(ids.split(counts)):
        table[row, : len(own)] = own
    pages = random_bits(num_elements, device).view(num_pages, *shape)
    return Pool(pages, table.to(device), torch.tensor(lens, dtype=torch.int32, device=device))


def check_row(
    out: Tensor,  # [new tokens, num_heads, head_dim]: one row's
    query: Tensor,  # as out
    layer: Tensor,
    pages: Tensor,  # [max_pages] int32
    seq_len: int,
) -> None:
    """Against the twin in float32, over a copy of the row's pages.

    Raises:
        WrongResult: the result is not finite, or too far from the twin's.
    """
    used = pages[: -(-seq_len // layer.shape[3])].long()
    table = torch.arange(len(used), dtype=torch.int32, device=out.device).unsqueeze(0)
    new = torch.tensor([0, len(query)], dtype=torch.int32)
    expected = reference.paged_attention(
        query.float(), layer[used].float(), table, new, torch.tensor([seq_len]), scale_of(query)
    )
    if not out.isfinite().all():
        raise WrongResult("the result has values that are not finite")
    close(out, expected, TOLERANCE)


def scale_of(query: Tensor) -> float:
    return float(query.shape[-1] ** -0.5)


@contextmanager
def padded_heads() -> Iterator[None]:
    """Our own kernels with the head's tiles padded to one power of two, as others have them."""

    def one_tile(head_dim: int) -> HeadTiles:
        return HeadTiles(1 << (head_dim - 1).bit_length(), 0)

    with ExitStack() as stack:
        for module in (attention_arguments, prefill_attention):
            stack.enter_context(mock.patch.object(module, "head_tiles", one_tile))
        yield


def padded(call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with padded_heads():
            return call()

    return run


def sdpa(backend: SDPBackend, query: Tensor, kv: Tensor, is_causal: bool) -> Tensor:
    """query [rows, num_heads, new, head_dim], kv [2, rows, num_kv_heads, seq_len, head_dim]."""
    with sdpa_kernel([backend]):
        return scaled_dot_product_attention(
            query, kv[0], kv[1], is_causal=is_causal, enable_gqa=query.shape[1] != kv.shape[2]
        )
