"""How large the steps of a worker can be; what its executor is made for."""

from __future__ import annotations

from dataclasses import dataclass

from pdrt.messages import ServerSpec


@dataclass(frozen=True, slots=True)
class ServerShape:
    """Limits of a step, and how it is to be split.

    Attributes:
        max_num_seqs: rows of a decode step.
        max_num_batched_tokens: new tokens of any step.
        reproducible: attention splits KV at fixed places, and not so that a GPU is filled.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    page_size: int
    reproducible: bool = False

    @staticmethod
    def of(server: ServerSpec) -> ServerShape:
        """The limits that a server sets its workers."""
        return ServerShape(
            server.max_num_seqs,
            server.max_num_batched_tokens,
            server.max_model_len,
            server.page_size,
            server.reproducible,
        )

    @property
    def max_pages(self) -> int:
        """Of one row."""
        return -(-self.max_model_len // self.page_size)
