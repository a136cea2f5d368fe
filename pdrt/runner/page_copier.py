"""Copies pages of a GPU's pool beside the steps, for a prompt that begins as another request's."""

from __future__ import annotations

import torch
from torch import Tensor

from pdrt.kv.pool import copy_tokens

# Fewer tokens are computed along with the rest of a prompt: a copy is a launch and a wait, with the
# ledger's lock held. Not measured yet.
LEAST_TOKENS = 8


class PageCopier:
    """Whole pages, on a stream of its own: what was read of a request no step writes any more.

    The host waits for each copy, and so whatever it launches next finds it. Under Triton's
    interpreter, whose tensors are on the CPU, a copy is torch's.
    """

    def __init__(self, pool: Tensor) -> None:
        self._pool = pool
        # Before the kernels that wait for a place on the card: another process may wait for us.
        self._stream = torch.cuda.Stream(pool.device, priority=-1) if pool.is_cuda else None

    def copy(self, source: int, destination: int, num_tokens: int) -> bool:
        """Copies at least a page's first tokens; False where they are too few."""
        if num_tokens < LEAST_TOKENS:
            return False
        self._copy(source, destination, num_tokens)
        return True

    def warm_up(self) -> None:
        """Loads the kernel, so that nobody waits for that with the lock held."""
        self._copy(-1, -1, 0)  # a pair that is skipped

    def _copy(self, source: int, destination: int, num_tokens: int) -> None:
        if self._stream is None:
            copy_tokens(self._pool, source, destination, num_tokens)
            return
        from pdrt import _C_cuda  # only there where it was built

        _C_cuda.page_copy_list(
            device=self._pool.device.index,
            stream=self._stream.cuda_stream,
            source=self._pool.data_ptr(),
            destination=self._pool.data_ptr(),
            page_bytes=self._pool.stride(0) * self._pool.element_size(),
            pairs=[(source, destination)],
        )
        self._stream.synchronize()
