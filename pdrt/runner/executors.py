"""Which executor computes: the CPU's or a GPU's, by where the pool is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from pdrt.kernels import cpu
from pdrt.model.decoder import Decoder
from pdrt.model.spec import ModelSpec
from pdrt.runner.executor import CpuExecutor, Executor
from pdrt.runner.shape import ServerShape


def make_executor(
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    pool: Tensor,
    shape: ServerShape,
    on_layer: Callable[[], None],
) -> Executor:
    """For weights and a pool on one device.

    Args:
        on_layer: says that a step goes on; called after each layer, on a GPU after each launch.
    """
    if pool.is_cpu:
        return CpuExecutor(Decoder(spec, weights, cpu, shape.max_model_len), pool, on_layer)
    # Here, as it needs Triton, which a CPU installation has not.
    from pdrt.runner.gpu import gpu_executor

    return gpu_executor(spec, weights, pool, shape, on_layer)
