"""Random weights for any config: to try a model's size, speed and memory without its files.

Each tensor is drawn from a generator of its own, seeded by its name and the server's seed, so the
same seed gives the same model, whatever the order or the number of threads. Values are small enough
that activations stay finite in bfloat16: norms are near 1, everything else is near 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from pdrt._C import Memory
from pdrt.model.checkpoint import read_spec
from pdrt.model.layout import WeightDType, weight_layout
from pdrt.model.progress import told
from pdrt.model.weights import map_weights

STD = 0.02  # what most of these models are initialised with


def load_dummy(folder: Path, dtype: WeightDType, memory: Memory, seed: int) -> None:
    """Fills `memory` with random weights for the config in `folder`, in place of `load_weights`.

    Raises:
        ModelError: as `read_spec`.
    """
    layout = weight_layout(read_spec(folder), dtype)
    assert memory.num_bytes >= layout.num_bytes, (memory.num_bytes, layout.num_bytes)
    fill(map_weights(memory, layout), seed)


def fill(targets: Mapping[str, Tensor], seed: int) -> None:
    """Draws every tensor; torch draws one with one thread, so several are drawn at a time."""

    def draw(name: str) -> int:
        tensor = targets[name]
        mean = 1.0 if "norm" in name and name.endswith(".weight") else 0.0
        tensor.normal_(mean, STD, generator=_generator(name, seed))
        return tensor.nbytes

    total = sum(tensor.nbytes for tensor in targets.values())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in told(pool.map(draw, targets), total, "drawing random weights"):
            pass


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
