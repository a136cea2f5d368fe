"""The forward pass of any decoder that a ModelSpec describes, over paged KV.

    residual = embedding
    each layer, sequential:  residual += attention(norm(residual)); residual += mlp(norm(residual))
    or parallel:             residual += attention(norm(residual)) + mlp(norm(residual))
    logits = head(norm(residual))

A layer is at most eight calls of its backend: norm, qkv, rotation and KV write, attention, output
projection, norm, up projection with activation, down projection. The two projections back to
hidden_size add to the residual as they end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdrt.model.batch import Batch
from pdrt.model.kernels import Kernels
from pdrt.model.rotary import rotary_table
from pdrt.model.spec import ModelSpec
from pdrt.model.weights import Weight


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Weight
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of one layer; those that its model has not are None."""

    attention_norm: _Norm
    qkv: _Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    attention_out: _Linear
    mlp_norm: _Norm | None
    up: _Linear  # gate | up where gated
    down: _Linear


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    bias: Tensor | None


class Decoder:
    """One model: a spec, its weights (by the names of pdrt.model.spec) and a kernel backend.

    Args:
        max_model_len: positions that requests can reach; rotary scaling may depend on it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Mapping[str, Weight],
        kernels: Kernels,
        max_model_len: int,
    ) -> None:
        self._spec = spec
        self._kernels = kernels
        self._embedding = weights["embedding.weight"]
        self._layers = [_layer(spec, weights, f"layers.{i}.") for i in range(spec.num_layers)]
        self._final_norm = _norm(weights, "final_norm")
        head = "embedding" if spec.tied_embeddings else "head"
        self._head = _Linear(weights[f"{head}.weight"], _vector(weights, "head.bias"))
        device = self._final_norm.weight.device
        self._cos_sin = rotary_table(spec.rope, max_model_len).to(device)
        self._scale = spec.head_dim**-0.5

    def with_kernels(self, kernels: Kernels) -> Decoder:
        """The same model, computed by another backend of its device."""
        other = copy.copy(self)
        other._kernels = kernels
        return other

    @torch.inference_mode()
    def forward(
        self, batch: Batch, kv_layers: Sequence[Tensor], on_layer: Callable[[], None]
    ) -> Tensor:
        """Computes a step: writes the KV of its tokens, reads that of all before.

        Args:
            kv_layers: of each layer [num_pages + 1, 2, num_kv_heads, page_size, head_dim].
            on_layer: called after each layer; says that the step goes on.

        Returns:
            [num_wanted, hidden_size], normed, for `logits`.
        """
        residual = self.embed(batch.input_ids)
        *layers, last = range(len(self._layers))
        for index in layers:
            self.layer(index, residual, batch, kv_layers[index])
            on_layer()
        residual = self._last_layer(last, residual, batch, kv_layers[last])
        on_layer()
        return self.normed(residual)

    def layer(self, index: int, residual: Tensor, batch: Batch, kv_layer: Tensor) -> None:
        """Adds a layer's attention and MLP to the residual, by calls of the backend alone."""
        x = self._norm(self._layers[index].attention_norm, residual)
        self._add_both(index, x, self._attention(index, x, batch, kv_layer), residual)

    def _last_layer(self, index: int, residual: Tensor, batch: Batch, kv_layer: Tensor) -> Tensor:
        """The same, and then the rows that are wanted: of all others only KV is left to be made.

        A prompt wants its last token, so this is most of one layer's work less.
        """
        x = self._norm(self._layers[index].attention_norm, residual)
        heads = self._attention(index, x, batch, kv_layer)
        if len(batch.wanted) < len(residual):
            x, heads, residual = (each[batch.wanted] for each in (x, heads, residual))
        if len(residual):
            self._add_both(index, x, heads, residual)
        return residual

    def _add_both(self, index: int, x: Tensor, heads: Tensor, residual: Tensor) -> None:
        """Adds what attention and MLP give; x: the layer's input, normed."""
        layer = self._layers[index]
        # Before attention adds to the residual, where both read it as it was.
        y = self._mlp_input(layer, x, residual) if self._spec.parallel else None
        self._add(residual, layer.attention_out, heads)
        self._mlp(layer, self._mlp_input(layer, x, residual) if y is None else y, residual)

    def normed(self, residual: Tensor) -> Tensor:
        """[n, hidden_size], after the last layer -> the same, for `logits`."""
        return self._norm(self._final_norm, residual)

    @property
    def num_layers(self) -> int:
        return self._spec.num_layers

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """[n, hidden_size] -> [n, vocab_size] float32."""
        head = self._head
        out = hidden.new_empty(len(hidden), self._spec.vocab_size, dtype=torch.float32)
        return self._kernels.linear(hidden, head.weight, head.bias, out=out)

    def embed(self, input_ids: Tensor) -> Tensor:
        """[num_tokens] -> [num_tokens, hidden_size], which the caller may change."""
        embedded = self._kernels.embedding(input_ids, self._embedding)
        scale = self._spec.embedding_scale
        return embedded if scale == 1.0 else embedded * torch.tensor(scale, dtype=embedded.dtype)

    def _attention(self, index: int, x: Tensor, batch: Batch, kv_layer: Tensor) -> Tensor:
        """[num_tokens, num_heads * head_dim] of [num_tokens, hidden_size]; writes their KV."""
        spec, layer = self._spec, self._layers[index]
        query = self._kernels.rope_kv_write(
            self._kernels.linear(x, layer.qkv.weight, layer.qkv.bias),
            kv_layer,
            batch.slot_mapping,
            batch.positions,
            self._cos_sin,
            spec.num_heads,
            spec.num_kv_heads,
            layer.q_norm,
            layer.k_norm,
            spec.norm_eps,
        )
        heads = self._kernels.paged_attention(
            query,
            kv_layer,
            batch.page_table,
            batch.cu_seqlens_q,
            batch.seq_lens,
            self._scale,
            spec.windows[index],
        )
        return heads.flatten(1)

    def _mlp_input(self, layer: _Layer, x: Tensor, residual: Tensor) -> Tensor:
        return x if layer.mlp_norm is None else self._norm(layer.mlp_norm, residual)

    def _mlp(self, layer: _Layer, x: Tensor, residual: Tensor) -> None:
        up, activation = layer.up, self._spec.activation
        inner = self._kernels.linear(x, up.weight, up.bias, activation=activation)
        self._add(residual, layer.down, inner)

    def _add(self, residual: Tensor, linear: _Linear, x: Tensor) -> None:
        """residual += linear(x)"""
        self._kernels.linear(x, linear.weight, linear.bias, residual=residual, out=residual)

    def _norm(self, norm: _Norm, x: Tensor) -> Tensor:
        eps = self._spec.norm_eps
        if norm.bias is None:
            offset = self._spec.norm_weight_offset
            return self._kernels.rms_norm(x, norm.weight, eps, weight_offset=offset)
        return self._kernels.layer_norm(x, norm.weight, norm.bias, eps)


def _layer(spec: ModelSpec, weights: Mapping[str, Weight], prefix: str) -> _Layer:
    own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    return _Layer(
        attention_norm=_norm(own, "attention_norm"),
        qkv=_linear(own, "qkv"),
        q_norm=_vector(own, "q_norm.weight"),
        k_norm=_vector(own, "k_norm.weight"),
        attention_out=_linear(own, "attention_out"),
        mlp_norm=None if spec.shared_norm else _norm(own, "mlp_norm"),
        up=_linear(own, "gate_up" if spec.is_gated else "up"),
        down=_linear(own, "down"),
    )


def _linear(weights: Mapping[str, Weight], name: str) -> _Linear:
    return _Linear(weights[f"{name}.weight"], _vector(weights, f"{name}.bias"))


def _norm(weights: Mapping[str, Weight], name: str) -> _Norm:
    weight = _vector(weights, f"{name}.weight")
    assert weight is not None, name
    return _Norm(weight, _vector(weights, f"{name}.bias"))


def _vector(weights: Mapping[str, Weight], name: str) -> Tensor | None:
    """A bias or a norm's weight, which no backend packs."""
    vector = weights.get(name)
    assert vector is None or isinstance(vector, Tensor), name
    return vector
