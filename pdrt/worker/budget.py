"""How many pages a GPU has room for, once it is known what all else takes."""

from __future__ import annotations

from pdrt.errors import MemoryShortage
from pdrt.messages import ServerSpec

GIB = 2**30


def pages_that_fit(
    server: ServerSpec, page_bytes: int, worker_bytes: int, memory_total: int, memory_free: int
) -> int:
    """What --mem-fraction-static of the device leaves for the pool, beside weights and workers.

    Args:
        worker_bytes: what all workers hold at their largest steps.
        memory_total: of the device, bytes.
        memory_free: of it, now that the weights are there and no worker is.

    Raises:
        MemoryShortage: that is less than one request of full length.
    """
    share = int(server.mem_fraction_static * memory_total)
    room = min(share - server.weight_bytes, memory_free) - worker_bytes
    num_pages = room // page_bytes - 1  # and a scratch page
    smallest = -(-server.max_model_len // server.page_size)
    if num_pages < smallest:
        raise MemoryShortage(
            f"{server.device} has {_gib(memory_free)} free of {_gib(memory_total)}; "
            f"--mem-fraction-static {server.mem_fraction_static:g} leaves {max(0, num_pages)} KV "
            f"pages beside weights of {_gib(server.weight_bytes)} and workers of "
            f"{_gib(worker_bytes)}, and one request of {server.max_model_len} tokens needs "
            f"{smallest}; give a smaller --max-model-len, --max-num-batched-tokens or "
            "--max-num-seqs, or a larger fraction"
        )
    return num_pages


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB"
