"""The plain torch twin of every operation: what each kernel must compute, written to be read.

A twin computes in the dtype of its arguments, so float64 arguments give the exact result that the
tests measure against, and bfloat16 ones the error that a kernel may at most double.
"""

from __future__ import annotations

import torch
from torch import Tensor


def paged_attention(
    query: Tensor,  # [num_tokens, num_heads, head_dim]
    kv_layer: Tensor,  # [num_pages, 2, num_kv_heads, page_size, head_dim]
    page_table: Tensor,  # [num_rows, max_pages] int32
    cu_seqlens_q: Tensor,  # [num_rows + 1] int32
    seq_lens: Tensor,  # [num_rows] int32
    scale: float,
    window: int = 0,
    out: Tensor | None = None,  # [num_tokens, num_heads, head_dim]
    soft_cap: float = 0.0,
    lse: Tensor | None = None,  # [num_tokens, num_heads]: log-sum-exp of the scores, natural
) -> Tensor:
    """Causal attention of each row's new tokens over the KV of that row.

    A row with q new tokens and seq_len KV in all has its token i at position seq_len - q + i; it
    sees the last `window` positions up to its own (Jiang et al. 2023), or with window 0 all of
    them. Query head h reads KV head h // (num_heads / num_kv_heads). With a soft cap, scores are
    soft_cap * tanh(score / soft_cap) (Gemma Team 2024).
    """
    result = torch.empty_like(query) if out is None else out
    page_size = kv_layer.shape[3]
    bounds = cu_seqlens_q.tolist()
    for row, seq_len in enumerate(seq_lens.tolist()):
        new = slice(bounds[row], bounds[row + 1])
        pages = page_table[row, : -(-seq_len // page_size)].long()
        # [pages, 2, kv_heads, page_size, head_dim] -> [2, kv_heads, seq_len, head_dim]
        kv = kv_layer[pages].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :seq_len]
        own = seq_len - (new.stop - new.start)  # the first new token's position
        key, value = kv[:, :, max(0, own - window + 1) if window else 0 :]
        scores = _scores(query[new], key, scale, window, soft_cap)
        if lse is not None:
            lse[new] = scores.logsumexp(-1).T
        value = value.repeat_interleave(query.shape[1] // len(value), 0)
        result[new] = torch.matmul(scores.softmax(-1), value).transpose(0, 1)
    return result


def _scores(query: Tensor, key: Tensor, scale: float, window: int, soft_cap: float) -> Tensor:
    """query [q, heads, head_dim], key [kv_heads, seq_len, head_dim] -> [heads, q, seq_len]."""
    key = key.repeat_interleave(query.shape[1] // len(key), 0)
    scores = query.transpose(0, 1) @ key.transpose(1, 2) * scale
    if soft_cap:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    q_len, seq_len = scores.shape[1:]
    own = seq_len - q_len  # the first new token's place among the keys
    seen = torch.ones(q_len, seq_len, dtype=torch.bool, device=query.device).tril(own)
    if window:
        seen = seen.triu(own - window + 1)
    return scores.masked_fill(~seen, float("-inf"))


def rope_kv_write(
    qkv: Tensor,  # [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]; q is rotated in place
    kv_layer: Tensor,  # [num_pages, 2, num_kv_heads, page_size, head_dim]
    slot_mapping: Tensor,  # [num_tokens] int32: page_id * page_size + offset; -1: not written
    positions: Tensor,  # [num_tokens] int32
    cos_sin: Tensor,  # [max_len, rotary_dim]: cos of each pair's angle | sin of it
    num_heads: int,
    num_kv_heads: int,
    q_norm: Tensor | None = None,  # [head_dim]
    k_norm: Tensor | None = None,  # [head_dim]
    norm_eps: float = 0.0,
    interleaved: bool = False,
    bias: Tensor | None = None,  # [(num_heads + 2 * num_kv_heads) * head_dim]
) -> Tensor:
    """Rotates q and k by their positions, writes k and v to their pages; returns q, a view of qkv.

    Dimension i < rotary_dim / 2 of a head is paired with i + rotary_dim / 2, or, interleaved, 2 i
    with 2 i + 1; those from rotary_dim on are not rotated. A bias is added first. With q_norm and
    k_norm, each head of q and k is then RMS-normed over head_dim and multiplied with that weight.
    """
    if bias is not None:
        qkv += bias
    num_tokens, page_size, head_dim = qkv.shape[0], kv_layer.shape[3], kv_layer.shape[4]
    heads = qkv.view(num_tokens, num_heads + 2 * num_kv_heads, head_dim)
    query, keys_and_values = heads[:, :num_heads], heads[:, num_heads:]
    key, value = keys_and_values.chunk(2, dim=1)
    if q_norm is not None and k_norm is not None:
        query.copy_(rms_norm(query, q_norm, norm_eps))
        key = rms_norm(key, k_norm, norm_eps)
    cos, sin = cos_sin[positions.long()].unsqueeze(1).to(qkv.dtype).chunk(2, dim=-1)
    query.copy_(_rotate(query, cos, sin, interleaved))
    written = slot_mapping >= 0
    pages, offsets = slot_mapping[written].long() // page_size, slot_mapping[written] % page_size
    kv_layer[pages, 0, :, offsets.long()] = _rotate(key, cos, sin, interleaved)[written]
    kv_layer[pages, 1, :, offsets.long()] = value[written]
    return query


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """heads [num_tokens, heads, head_dim], cos and sin [num_tokens, 1, rotary_dim / 2]."""
    rotary_dim = 2 * cos.shape[-1]
    rotary, rest = heads[..., :rotary_dim], heads[..., rotary_dim:]
    if interleaved:
        first, second = rotary[..., 0::2], rotary[..., 1::2]
    else:
        first, second = rotary.chunk(2, dim=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    both = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    return torch.cat([both, rest], dim=-1)


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual: Tensor | None = None,
    weight_offset: float = 0.0,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (weight_offset + weight), over the last dimension.

    With a residual, residual += x first, in place, and the norm is that of the sum.
    """
    x = x if residual is None else residual.add_(x)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (weight_offset + weight)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, residual: Tensor | None = None
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last dimension.

    With a residual, residual += x first, in place, and the norm is that of the sum.
    """
    x = x if residual is None else residual.add_(x)
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight + bias


def silu_and_mul(x: Tensor) -> Tensor:
    """silu(gate) * up, for x = gate | up: [n, 2 * i] -> [n, i]."""
    gate, up = x.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def gelu_tanh(x: Tensor) -> Tensor:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))."""
    return x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def gelu_tanh_and_mul(x: Tensor) -> Tensor:
    """gelu_tanh(gate) * up, for x = gate | up: [n, 2 * i] -> [n, i]."""
    gate, up = x.chunk(2, dim=-1)
    return gelu_tanh(gate) * up


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x) = x / 2 * (1 + erf(x / sqrt(2))), with 1 + erf(u) as erfc(-u): exact for u < 0."""
    return x / 2 * torch.erfc(-x / 2**0.5)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """residual + f(x weight^T + bias); f(gate) * up where the activation is a gated one.

    Args:
        x: [n, i]; weight: [o, i]; bias: [o]; residual: [n, o], or [n, o / 2] where gated.
        activation: silu_gated, gelu_tanh_gated, gelu_tanh, gelu or none.
    """
    result = x @ weight.T if bias is None else x @ weight.T + bias
    if activation is not None:
        result = _ACTIVATIONS[activation](result)
    return result if residual is None else residual + result


_ACTIVATIONS = {
    "silu_gated": silu_and_mul,
    "gelu_tanh_gated": gelu_tanh_and_mul,
    "gelu_tanh": gelu_tanh,
    "gelu": gelu,
}
