"""Steps on a GPU: prefill eagerly, pure decode steps as CUDA graphs.

    batch on the CPU -> device (pinned, without waiting) -> token ids that only the device knows
    -> work lists -> layers -> hidden states -> tokens, which stay for the next step -> host

Nothing here waits for the device but whoever reads what was drawn, and by then the next step has
been launched: docs/gpu.md. The same code runs under Triton's interpreter on CPU tensors, without
graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from pdrt.messages import Role
from pdrt.model.batch import Batch
from pdrt.model.decoder import Decoder
from pdrt.model.spec import ModelSpec
from pdrt.model.weights import Weight
from pdrt.runner.batch import blank_batch
from pdrt.runner.executor import fed
from pdrt.runner.gpu_sampler import DeviceDrawing, sample_on_gpu
from pdrt.runner.graphs import DecodeGraphs
from pdrt.runner.logits import Context
from pdrt.runner.page_copier import PageCopier
from pdrt.runner.rehearsal import rehearse
from pdrt.runner.shape import ServerShape
from pdrt.runner.triton_kernels import TritonKernels


class GpuExecutor:
    """One decoder whose weights and pool are on a GPU. All its work is on one stream, in order.

    Args:
        kernels: those of the decoder; prepared here for each step.
        on_step: called when a step was launched.
    """

    depth = 2
    # New each time: what the step before was written to may still be on its way.
    blank = staticmethod(blank_batch)

    def __init__(
        self,
        decoder: Decoder,
        kernels: TritonKernels,
        pool: Tensor,
        shape: ServerShape,
        on_step: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._kernels = kernels
        self._device = pool.device
        self._copier = PageCopier(pool)
        self._kv_layers = pool.unbind(1)
        self._on_step = on_step
        self._graphs: DecodeGraphs | None = None
        self._shape = shape
        # What the last step drew. In unified mode both phases have rows that sample.
        self._drawn = torch.zeros(2 * shape.max_num_seqs, dtype=torch.int32, device=pool.device)
        self.graph_bytes = 0

    def warm_up(self, role: Role) -> None:
        """Compiles all kernels of a role's steps, and captures the graphs of decode steps."""
        self._copier.warm_up()
        if role != "prefill" and self._device.type == "cuda":
            before = torch.cuda.mem_get_info(self._device)[0]
            self._graphs = DecodeGraphs(
                self.decode_step,
                self._shape.max_num_seqs,
                self._shape.max_pages,
                self._device,
            )
            self._graphs.capture()
            self.graph_bytes = before - torch.cuda.mem_get_info(self._device)[0]
        rehearse(self, self._shape, role)

    def forward(self, batch: Batch) -> Tensor:
        if self._graphs is not None and self._graphs.fits(batch):
            hidden = self._graphs.run(batch)
        else:
            placed = self._fed(to_device(batch, self._device))
            self._kernels.prepare(batch, placed)
            hidden = self._decoder.forward(placed, self._kv_layers, _nothing)
        self._on_step()
        return hidden

    def copy_page(self, source: int, destination: int, num_tokens: int) -> bool:
        return self._copier.copy(source, destination, num_tokens)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._decoder.logits(hidden)

    def draw(
        self, hidden: Tensor, contexts: Sequence[Context], eos_token_ids: Collection[int]
    ) -> DeviceDrawing:
        result = None
        if contexts:
            result = sample_on_gpu(self.logits(hidden), contexts, eos_token_ids)
            self._drawn[: len(contexts)] = result.tokens
        return DeviceDrawing(result, contexts, self._device)

    def decode_step(self, batch: Batch) -> Tensor:
        """What a graph captures: rows of one token, with every tensor on the device already."""
        self._kernels.prepare_decode(batch)
        return self._decoder.forward(self._fed(batch), self._kv_layers, _nothing)

    def _fed(self, batch: Batch) -> Batch:
        """With the token ids that the host does not know; `batch` is on the device."""
        return replace(batch, input_ids=fed(batch.input_ids, self._drawn))


def gpu_executor(
    spec: ModelSpec,
    weights: Mapping[str, Weight],
    pool: Tensor,
    shape: ServerShape,
    on_step: Callable[[], None],
) -> GpuExecutor:
    """The executor of a worker, on the device that its pool is on; without graphs yet.

    That device becomes torch's current one, so that nothing ever makes a context on another.
    """
    if pool.is_cuda:
        torch.cuda.set_device(pool.device)
    longest_row = shape.max_pages * shape.page_size  # the last page of a request may not be full
    kernels = TritonKernels(spec, pool.device, shape.max_num_seqs, longest_row, shape.reproducible)
    decoder = Decoder(spec, weights, kernels, shape.max_model_len)
    return GpuExecutor(decoder, kernels, pool, shape, on_step)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A copy on the device, on its way when this returns."""
    if device.type == "cpu":  # Triton's interpreter
        return batch
    tensors = {
        field.name: getattr(batch, field.name).pin_memory().to(device, non_blocking=True)
        for field in fields(batch)
    }
    return Batch(**tensors)


def _nothing() -> None:
    """A layer that was launched says nothing about the device."""
