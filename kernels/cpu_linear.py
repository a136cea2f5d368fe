"""Linear layers of the CPU backend, over weights that were packed once for all processes.

`PackedLinear` says where a packed weight stands; csrc/cpu_linear.h draws the layout. The loader
writes rows into it with `pack_rows`, workers multiply by it with `linear`, and a tied embedding is
read out of it with `embedding`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pdrt import _C
from pdrt.kernels.checks import check_whole

# Name -> Act of csrc/cpu_linear.h, and whether it takes a gated weight.
ACTIVATIONS = {
    None: (0, False),
    "silu_gated": (1, True),
    "gelu_tanh_gated": (2, True),
    "gelu_tanh": (2, False),
    "gelu": (3, False),
}


@dataclass(frozen=True, slots=True, eq=False)
class PackedLinear:
    """A weight [num_outputs, num_inputs] in panels.

    Attributes:
        memory: [num_bytes] uint8, which holds it; zero before the first row is written.
        packed: its sizes, what it is made of, and whether it is gate | up side by side.
        dtype: of the rows that are packed, of inputs and of results; the panels may be int8.
    """

    memory: Tensor
    packed: _C.PackedShape
    dtype: torch.dtype = field(init=False)
    shape: tuple[int, int] = field(init=False)
    address: int = field(init=False)

    def __post_init__(self) -> None:
        packed = self.packed
        check_whole("memory", self.memory, torch.uint8, (packed.num_bytes,))
        dtype = torch.bfloat16 if packed.is_bfloat16 else torch.float32
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "shape", (packed.num_outputs, packed.num_inputs))
        object.__setattr__(self, "address", self.memory.data_ptr())

    @property
    def out_size(self) -> int:
        """Columns of a result."""
        return self.shape[0] // 2 if self.packed.gated else self.shape[0]


def packed(weight: Tensor, gated: bool = False, int8: bool = False) -> PackedLinear:
    """A packed copy of a weight [num_outputs, num_inputs], float32 or bfloat16.

    Args:
        gated: the rows are those of gate, then as many of up, whose results are multiplied.
        int8: each row becomes whole numbers from -127 to 127, and their scale.

    Raises:
        ValueError: the weight does not fit; names what is wrong.
    """
    num_outputs, num_inputs = weight.shape
    shape = _C.PackedShape(
        num_outputs=num_outputs,
        num_inputs=num_inputs,
        gated=gated,
        is_bfloat16=weight.dtype is torch.bfloat16,
        is_int8=int8,
    )
    result = PackedLinear(torch.zeros(shape.num_bytes, dtype=torch.uint8), shape)
    pack_rows(result, 0, weight)
    return result


def pack_rows(weight: PackedLinear, first_row: int, rows: Tensor) -> None:
    """Writes rows [n, num_inputs] to the rows from `first_row` on.

    Raises:
        ValueError: they do not fit; names what is wrong. Nothing was written.
    """
    num_rows, num_outputs = len(rows), weight.shape[0]
    check_whole("rows", rows, weight.dtype, (num_rows, weight.shape[1]))
    if first_row < 0 or first_row + num_rows > num_outputs:
        raise ValueError(
            f"{num_rows} rows from row {first_row} on are more than the weight's {num_outputs}"
        )
    _C.cpu_pack_rows(weight.packed, weight.address, rows.data_ptr(), first_row, num_rows)


def linear(
    x: Tensor,
    weight: Tensor | PackedLinear,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """residual + f(x weight^T + bias), summed in float32 and rounded once.

    f is the activation; a gated one is f(gate) * up of gate | up = x weight^T + bias. The bits of a
    row depend on that row and the weight alone. With an int8 weight, x is rounded in groups of 64
    to whole numbers from -127 to 127 and their scale; a row that is not all finite gives NaN.

    Args:
        x: [num_rows, num_inputs], dtype of the weight, contiguous.
        bias: [num_outputs], dtype of the weight.
        residual: as the result; may be `out`, which is then added to.
        activation: silu_gated or gelu_tanh_gated, for a gated weight; else gelu_tanh, gelu or none.
        out: [num_rows, num_outputs], gated half as many columns, contiguous; dtype of the weight,
            or float32. A new one of the weight's dtype where none is given.

    Raises:
        ValueError: an argument does not fit; names it. Nothing was written.
    """
    weight = _packed(weight)
    num_outputs, num_inputs = weight.shape
    num_rows = x.shape[0]
    check_whole("x", x, weight.dtype, (num_rows, num_inputs))
    shape = (num_rows, weight.out_size)
    if out is None:
        out = torch.empty(shape, dtype=weight.dtype)
    else:
        dtype = out.dtype if out.dtype is torch.float32 else weight.dtype
        check_whole("out", out, dtype, shape)
    if bias is not None:
        check_whole("bias", bias, weight.dtype, (num_outputs,))
    if residual is not None:
        check_whole("residual", residual, out.dtype, shape)
    act, gated = ACTIVATIONS.get(activation, (0, None))
    if gated is not weight.packed.gated:
        kind = "gated" if weight.packed.gated else "plain"
        raise ValueError(f"activation is {activation!r}, which is none for a {kind} weight")
    _C.cpu_linear(
        weight.packed,
        weight.address,
        out.data_ptr(),
        x.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        num_rows,
        act,
        out.dtype is torch.float32,
    )
    return out


def embedding(ids: Tensor, weight: Tensor | PackedLinear) -> Tensor:
    """Rows of a weight, packed or not: row ids[i] of [num_outputs, num_inputs] is that i here.

    Args:
        ids: [num_rows] int32.

    Raises:
        ValueError: an argument does not fit; names it.
    """
    shape = (len(ids), weight.shape[1])
    check_whole("ids", ids, torch.int32, shape[:1])
    if isinstance(weight, Tensor):
        return F.embedding(ids, weight)
    out = torch.empty(shape, dtype=weight.dtype)
    _C.cpu_gather_rows(weight.packed, weight.address, ids.data_ptr(), len(ids), out.data_ptr())
    return out


def _packed(weight: Tensor | PackedLinear) -> PackedLinear:
    if not isinstance(weight, PackedLinear):
        raise ValueError(f"weight is a tensor {tuple(weight.shape)}; give it packed")
    return weight


def unpacked(weight: PackedLinear) -> Tensor:
    """The weight [num_outputs, num_inputs] row after row; an int8 one as what it stands for."""
    return embedding(torch.arange(weight.shape[0], dtype=torch.int32), weight)
