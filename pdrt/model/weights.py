"""Writes a checkpoint into the weight memory, and maps that memory as tensors without a copy.

The loader process writes, once for each device; the workers map what it wrote and sealed. The
views of `map_weights` are over a mapping without write permission: writing to one ends the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pdrt.errors import ModelError
from pdrt.kernels.cpu_linear import PackedLinear, pack_rows
from pdrt.kv.shape import SharedMemory
from pdrt.model.checkpoint import locate, read_spec
from pdrt.model.families import sources
from pdrt.model.layout import Layout, WeightFormat, weight_layout
from pdrt.model.progress import told
from pdrt.model.spec import ModelSpec

Weight = Tensor | PackedLinear

ROWS_BYTES = 1 << 24  # of a checkpoint's tensor that are cast at a time, on their way into panels


def load_weights(folder: Path, form: WeightFormat, memory: SharedMemory) -> None:
    """Writes the checkpoint in `folder` into `memory`; what the loader process does.

    Raises:
        ModelError: the checkpoint is not whole; nothing was written then.
    """
    spec = read_spec(folder)
    layout = weight_layout(spec, form)
    assert memory.num_bytes >= layout.num_bytes, (memory.num_bytes, layout.num_bytes)
    targets = map_weights(memory, layout)
    write_weights(folder, spec, targets)
    wait_for(targets)


def wait_for(targets: Mapping[str, Weight]) -> None:
    """Returns when what was written is there for other processes: a GPU may still be writing."""
    plain = [target for target in targets.values() if isinstance(target, Tensor)]
    for device in {tensor.device for tensor in plain if tensor.is_cuda}:
        torch.cuda.synchronize(device)


def write_weights(folder: Path, spec: ModelSpec, targets: Mapping[str, Weight]) -> None:
    """Reads each tensor of the checkpoint into its place in `targets`, cast once to their dtype.

    Raises:
        ModelError: as `locate`; or a head that is to be tied differs from the embedding.
    """
    place = locate(folder, spec)
    files = {path: safe_open(path, framework="pt") for path in set(place.values())}

    def read(name: str) -> Tensor:
        tensor: Tensor = files[place[name]].get_tensor(name)
        return tensor

    (embedding,), (head,) = (sources(spec.family, f"{n}.weight") for n in ("embedding", "head"))
    if spec.tied_embeddings and head in place and not torch.equal(read(embedding), read(head)):
        raise ModelError(
            f"{folder}/config.json says that {head} is the embedding (tie_word_embeddings), and "
            f"{place[head].name} has one that differs; set tie_word_embeddings to false in a copy"
        )
    total = sum(num_bytes(target) for target in targets.values())
    for ours, target in told(
        targets.items(), lambda item: num_bytes(item[1]), total, "loading weights"
    ):
        row = 0
        for name in sources(spec.family, ours):
            tensor = read(name)
            if spec.qkv_by_head and ".qkv." in ours:
                tensor = _parted(tensor, spec)
            write_rows(target, row, tensor)
            row += len(tensor)


def num_bytes(target: Weight) -> int:
    """That a weight takes in memory."""
    return (target if isinstance(target, Tensor) else target.memory).nbytes


def write_rows(target: Weight, first_row: int, rows: Tensor) -> None:
    """Casts rows to the weight's dtype, and writes them to its rows from `first_row` on."""
    if isinstance(target, Tensor):
        target[first_row : first_row + len(rows)].copy_(rows)
        return
    at_once = max(1, ROWS_BYTES // (rows.shape[1] * target.dtype.itemsize))
    for part in torch.split(rows, at_once):
        pack_rows(target, first_row, part.to(target.dtype).contiguous())
        first_row += len(part)


def _parted(tensor: Tensor, spec: ModelSpec) -> Tensor:
    """Rows of q, k, v of each head in turn -> those of q, then of k, then of v, of all heads.

    Args:
        tensor: a weight [qkv_size, hidden_size] or a bias [qkv_size].
    """
    by_head = tensor.view(spec.num_heads, 3, spec.head_dim, *tensor.shape[1:])
    return by_head.transpose(0, 1).flatten(0, 2)


def map_weights(memory: SharedMemory, layout: Layout) -> dict[str, Weight]:
    """All tensors of the model as views of `memory`, which they keep mapped."""
    buffer: Tensor = from_dlpack(memory)  # [num_bytes] uint8
    dtype: torch.dtype = getattr(torch, layout.dtype)  # pdrt uses torch's words
    views: dict[str, Weight] = {}
    for name, entry in layout.entries.items():
        part = buffer[entry.offset : entry.offset + entry.num_bytes]
        if entry.packed:
            views[name] = PackedLinear(part, entry.packed)
        else:
            views[name] = part.view(dtype).view(entry.shape)
    return views
