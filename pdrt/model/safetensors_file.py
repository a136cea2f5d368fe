"""Writes a safetensors file tensor by tensor, so that one tensor is in memory at a time.

The format: the header's length (8 bytes, little endian), a JSON header that gives each tensor's
type, shape and place, then the data, in the header's order without gaps.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pdrt.model.progress import told

HEADER_ALIGNMENT = 8  # the data starts at a multiple of it; the header is padded with spaces


def write_float32(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    read: Callable[[str], NDArray[np.float32]],
) -> None:
    """Writes the tensors `read(name)` of the given shapes, in their order; tells how far it is.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    with path.open("wb") as file:
        header = _header(shapes)
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
        for name in told(shapes, sizes.__getitem__, sum(sizes.values()), f"writing {path.name}"):
            tensor = np.ascontiguousarray(read(name), dtype="<f4")
            assert tensor.shape == tuple(shapes[name]), (name, tensor.shape, shapes[name])
            file.write(tensor.data)
        file.flush()
        os.fsync(file.fileno())  # before the folder gets its final name


def _header(shapes: Mapping[str, Sequence[int]]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    return text.ljust(math.ceil(len(text) / HEADER_ALIGNMENT) * HEADER_ALIGNMENT)
