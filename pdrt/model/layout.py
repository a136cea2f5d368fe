"""Where each tensor stands in the weight memory. The loader and every worker compute the same.

A GPU's weights stand as they are, row after row. A CPU's matrices are packed into panels
(csrc/cpu_linear.h), but for an embedding that is not the head too: its rows are only looked up.
Panels have the model's dtype, or int8.

Touches no tensors, so that the process which only makes the memory can know its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pdrt import _C
from pdrt.config import Quantization
from pdrt.errors import ConfigError
from pdrt.messages import ServerSpec
from pdrt.model.spec import ModelSpec, Shape, tensors

ALIGNMENT = 64  # bytes: a cache line, and the widest vector load

WeightDType = Literal["float32", "bfloat16"]
ITEM_SIZE: dict[WeightDType, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """What the weights are stored as.

    Attributes:
        dtype: of all tensors but those that are quantized, and of what is computed with them.
        device: whose kernels read them: cpu, cuda or cuda:N.
        quantization: of the matrices that are packed.

    Raises:
        ConfigError: the device has no kernels for the quantization.
    """

    dtype: WeightDType
    device: str = "cpu"
    quantization: Quantization = "none"

    def __post_init__(self) -> None:
        if self.quantization != "none" and self.device != "cpu":
            raise ConfigError(
                f"--quantization is {self.quantization}, which only the CPU has kernels for, and "
                f"the device is {self.device}; give --device cpu, or --quantization none"
            )

    @staticmethod
    def of(server: ServerSpec) -> WeightFormat:
        """What a server's loader writes and its workers read."""
        return WeightFormat(server.dtype, server.device, server.quantization)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor. Without `packed` its elements stand one after the other."""

    offset: int  # bytes
    shape: Shape
    num_bytes: int
    packed: _C.PackedShape | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Name -> where that tensor is, and the size of it all."""

    dtype: WeightDType
    entries: dict[str, Entry]
    num_bytes: int


def weight_layout(spec: ModelSpec, form: WeightFormat) -> Layout:
    """The layout of all tensors of a model; a tied head is stored once, as the embedding."""
    entries: dict[str, Entry] = {}
    end = 0
    for name, shape in tensors(spec).items():
        packed = _packed(spec, name, shape, form) if form.device == "cpu" else None
        num_bytes = packed.num_bytes if packed else ITEM_SIZE[form.dtype] * math.prod(shape)
        entries[name] = Entry(end, shape, num_bytes, packed)
        end += math.ceil(num_bytes / ALIGNMENT) * ALIGNMENT
    return Layout(form.dtype, entries, end)


def _packed(spec: ModelSpec, name: str, shape: Shape, form: WeightFormat) -> _C.PackedShape | None:
    looked_up = name == "embedding.weight" and not spec.tied_embeddings
    if len(shape) != 2 or looked_up:
        return None
    return _C.PackedShape(
        num_outputs=shape[0],
        num_inputs=shape[1],
        gated=name.endswith(".gate_up.weight"),
        is_bfloat16=form.dtype == "bfloat16",
        is_int8=form.quantization == "int8",
    )
