"""The forward pass of any decoder that a ModelSpec describes, over paged KV.

    residual = embedding
    each layer, sequential:  residual += attention(norm(residual)); residual += mlp(norm(residual))
    or parallel:             residual += attention(norm(residual)) + mlp(norm(residual))
    logits = head(norm(residual))

The norm kernels add to the residual in place: each sum above is done by the norm that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pdrt.model.batch import Batch
from pdrt.model.rotary import rotary_table
from pdrt.model.spec import ModelSpec


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

    def layer_norm(
        self, x: Tensor, weight: Tensor, bias: Tensor, eps: float, residual: Tensor | None = None
    ) -> Tensor: ...

    def silu_and_mul(self, x: Tensor) -> Tensor: ...

    def gelu_tanh_and_mul(self, x: Tensor) -> Tensor: ...

    def gelu_tanh(self, x: Tensor) -> Tensor: ...

    def gelu(self, x: Tensor) -> Tensor: ...


class Decoder:
    """One model: a spec, its weights (by the names of pdrt.model.spec) and a kernel backend.

    Args:
        max_model_len: positions that requests can reach; rotary scaling may depend on it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Mapping[str, Tensor],
        kernels: Kernels,
        max_model_len: int,
    ) -> None:
        self._spec = spec
        self._kernels = kernels
        self._weights = weights
        self._layers = [_part(weights, f"layers.{i}.") for i in range(spec.num_layers)]
        device = weights["embedding.weight"].device
        self._cos_sin = rotary_table(spec.rope, max_model_len).to(device)
        self._scale = spec.head_dim**-0.5
        self._activation = {
            "silu_gated": kernels.silu_and_mul,
            "gelu_tanh_gated": kernels.gelu_tanh_and_mul,
            "gelu_tanh": kernels.gelu_tanh,
            "gelu": kernels.gelu,
        }[spec.activation]

    @torch.inference_mode()
    def forward(self, batch: Batch, kv_pool: Tensor, on_layer: Callable[[], None]) -> Tensor:
        """Computes a step: writes the KV of its tokens, reads that of all before.

        Args:
            kv_pool: [num_pages + 1, num_layers, 2, num_kv_heads, page_size, head_dim].
            on_layer: called after each layer; says that the step goes on.

        Returns:
            [num_wanted, hidden_size], normed, for `logits`.
        """
        residual = self._embed(batch.input_ids)
        update: Tensor | None = None
        for index, weights in enumerate(self._layers):
            x = self._norm(weights, "attention_norm", residual, update)
            update = self._attention(index, x, batch, kv_pool[:, index])
            if self._spec.parallel:
                if not self._spec.shared_norm:
                    x = self._norm(weights, "mlp_norm", residual, None)
                update += self._mlp(weights, x)
            else:
                x = self._norm(weights, "mlp_norm", residual, update)
                update = self._mlp(weights, x)
            on_layer()
        assert update is not None
        wanted = batch.wanted
        return self._norm(self._weights, "final_norm", residual[wanted], update[wanted])

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """[n, hidden_size] -> [n, vocab_size] float32."""
        head = "embedding" if self._spec.tied_embeddings else "head"
        return F.linear(
            hidden, self._weights[f"{head}.weight"], self._weights.get("head.bias")
        ).float()

    def _embed(self, input_ids: Tensor) -> Tensor:
        """[num_tokens] -> [num_tokens, hidden_size], which the caller may change."""
        embedded = F.embedding(input_ids, self._weights["embedding.weight"])
        scale = self._spec.embedding_scale
        return embedded if scale == 1.0 else embedded * torch.tensor(scale, dtype=embedded.dtype)

    def _attention(self, layer: int, x: Tensor, batch: Batch, kv_layer: Tensor) -> Tensor:
        spec, weights = self._spec, self._layers[layer]
        query = self._kernels.rope_kv_write(
            _linear(weights, "qkv", x),
            kv_layer,
            batch.slot_mapping,
            batch.positions,
            self._cos_sin,
            spec.num_heads,
            spec.num_kv_heads,
            weights.get("q_norm.weight"),
            weights.get("k_norm.weight"),
            spec.norm_eps,
        )
        out = self._kernels.paged_attention(
            query,
            kv_layer,
            batch.page_table,
            batch.cu_seqlens_q,
            batch.seq_lens,
            self._scale,
            spec.windows[layer],
        )
        return _linear(weights, "attention_out", out.flatten(1))

    def _mlp(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        inner = _linear(weights, "gate_up" if self._spec.is_gated else "up", x)
        return _linear(weights, "down", self._activation(inner))

    def _norm(
        self, weights: Mapping[str, Tensor], name: str, residual: Tensor, update: Tensor | None
    ) -> Tensor:
        """The norm of residual + update; the sum is left in `residual`."""
        x, onto = (residual, None) if update is None else (update, residual)
        weight, eps = weights[f"{name}.weight"], self._spec.norm_eps
        if self._spec.norm == "rms":
            return self._kernels.rms_norm(x, weight, eps, onto, self._spec.norm_weight_offset)
        return self._kernels.layer_norm(x, weight, weights[f"{name}.bias"], eps, onto)


def _linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
