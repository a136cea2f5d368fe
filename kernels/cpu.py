"""The CPU backend of the kernels."""

from pdrt.kernels.reference import (
    gelu_tanh,
    layer_norm,
    paged_attention,
    rms_norm,
    rope_kv_write,
    silu_and_mul,
)

__all__ = [
    "gelu_tanh",
    "layer_norm",
    "paged_attention",
    "rms_norm",
    "rope_kv_write",
    "silu_and_mul",
]
