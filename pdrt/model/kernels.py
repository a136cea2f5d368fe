"""The kernels that a decoder is computed with: what every backend has."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pdrt.model.spec import Activation
from pdrt.model.weights import Weight


class Kernels(Protocol):
    """A backend: a module in pdrt.kernels, where the shapes are documented."""

    def paged_attention(
        self,
        query: Tensor,
        kv_layer: Tensor,
        page_table: Tensor,
        cu_seqlens_q: Tensor,
        seq_lens: Tensor,
        scale: float,
        window: int = 0,
    ) -> Tensor: ...

    def rope_kv_write(
        self,
        qkv: Tensor,
        kv_layer: Tensor,
        slot_mapping: Tensor,
        positions: Tensor,
        cos_sin: Tensor,
        num_heads: int,
        num_kv_heads: int,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        norm_eps: float = 0.0,
    ) -> Tensor: ...

    def rms_norm(
        self,
        x: Tensor,
        weight: Tensor,
        eps: float,
        residual: Tensor | None = None,
        weight_offset: float = 0.0,
    ) -> Tensor: ...

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor: ...

    def linear(
        self,
        x: Tensor,
        weight: Weight,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        activation: Activation | None = None,
        out: Tensor | None = None,
    ) -> Tensor: ...

    def embedding(self, ids: Tensor, weight: Weight) -> Tensor: ...
