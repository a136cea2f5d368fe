"""Random weights for any config: to try a model's size, speed and memory without its files.

Each tensor has a generator of its own, seeded by its name and the server's seed, so the same seed
gives the same model, whatever the order or the number of threads. Random bits become numbers by
fixing their exponent: sign and mantissa stay random, and the magnitude is uniform in [1/64, 1/32).
That is some ten times faster than drawing from a normal distribution, and as small (0.024 against
the usual 0.02), so activations stay finite in bfloat16. Norms multiply by 1 plus such a number.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from pdrt.kv.shape import SharedMemory
from pdrt.model.checkpoint import read_spec
from pdrt.model.layout import WeightFormat, weight_layout
from pdrt.model.progress import told
from pdrt.model.weights import Weight, map_weights, num_bytes, wait_for, write_rows

CHUNK = 1 << 18  # numbers made at a time, in whole rows, so that their bits stay in the cache

# dtype -> integers of its size, the bits that stay random, the bits of 1/64
_BITS = {
    torch.bfloat16: (torch.int16, 0x807F - (1 << 16), 0x3C80),
    torch.float32: (torch.int32, 0x807FFFFF - (1 << 32), 0x3C800000),
}


def load_dummy(folder: Path, form: WeightFormat, memory: SharedMemory, seed: int) -> None:
    """Fills `memory` with random weights for the config in `folder`, in place of `load_weights`.

    Raises:
        ModelError: as `read_spec`.
    """
    spec = read_spec(folder)
    layout = weight_layout(spec, form)
    assert memory.num_bytes >= layout.num_bytes, (memory.num_bytes, layout.num_bytes)
    targets = map_weights(memory, layout)
    fill(targets, seed, norm=1.0 - spec.norm_weight_offset)
    wait_for(targets)


def fill(targets: Mapping[str, Weight], seed: int, norm: float = 1.0) -> None:
    """Draws every tensor (float32 or bfloat16); several at a time, as torch draws with one thread.

    The numbers do not depend on how a tensor is stored.

    Args:
        norm: what the weights of norms are near.
    """

    def draw(name: str) -> int:
        target = targets[name]
        add = norm if "norm" in name and name.endswith(".weight") else 0.0
        _draw(target, _generator(name, seed), add)
        return num_bytes(target)

    total = sum(num_bytes(target) for target in targets.values())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in told(pool.map(draw, targets), int, total, "drawing random weights"):
            pass


def _draw(target: Weight, generator: torch.Generator, add: float) -> None:
    num_rows, *sizes = target.shape
    at_once = max(1, CHUNK // math.prod(sizes))
    for first in range(0, num_rows, at_once):
        shape = (min(at_once, num_rows - first), *sizes)
        rows = _numbers(math.prod(shape), target.dtype, generator).view(shape)
        write_rows(target, first, rows + add if add else rows)


def _numbers(count: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    integers, random_bits, exponent = _BITS[dtype]
    words = torch.empty(math.ceil(count * dtype.itemsize / 8), dtype=torch.int64)
    bits = words.random_(-(2**63), None, generator=generator).view(integers)[:count]
    return bits.bitwise_and_(random_bits).bitwise_or_(exponent).view(dtype)


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
