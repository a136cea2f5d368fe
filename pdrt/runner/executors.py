"""Which executor computes: the CPU's or a GPU's, by where the pool is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pdrt.kernels import cpu
from pdrt.kv.shape import KVShape, SharedMemory
from pdrt.model.checkpoint import read_spec
from pdrt.model.decoder import Decoder
from pdrt.model.layout import WeightFormat, weight_layout
from pdrt.model.spec import ModelSpec
from pdrt.model.weights import Weight, map_weights
from pdrt.runner.executor import CpuExecutor, Executor
from pdrt.runner.shape import ServerShape


def make_executor(
    spec: ModelSpec,
    weights: Mapping[str, Weight],
    pool: Tensor,
    shape: ServerShape,
    on_layer: Callable[[], None],
) -> Executor:
    """For weights and a pool on one device.

    Args:
        on_layer: says that a step goes on; called after each layer, on a GPU after each launch.
    """
    if pool.is_cpu:
        decoder = Decoder(spec, weights, cpu, shape.max_model_len)
        return CpuExecutor(decoder, pool, shape, on_layer)
    # Here, as it needs Triton, which a CPU installation has not.
    from pdrt.runner.gpu import gpu_executor

    return gpu_executor(spec, weights, pool, shape, on_layer)


def scratch_executor(
    folder: Path, form: WeightFormat, weights: SharedMemory, shape: ServerShape
) -> Executor:
    """One that serves nobody: for the checkpoint in `folder`, with a pool of page 0 alone."""
    spec = read_spec(folder)
    tensors = map_weights(weights, weight_layout(spec, form))
    kv = KVShape(spec.num_layers, spec.num_kv_heads, shape.page_size, spec.head_dim, form.dtype)
    pool = torch.zeros(1, *kv.page, dtype=getattr(torch, form.dtype), device=form.device)
    return make_executor(spec, tensors, pool, shape, lambda: None)


def wait_for_device() -> None:
    """Until a GPU that this process uses is done, if it uses one.

    Raises:
        RuntimeError: what the device has failed with.
    """
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
