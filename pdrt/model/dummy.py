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
from pdrt.model.layout import WeightDType, weight_layout
from pdrt.model.progress import told
from pdrt.model.weights import map_weights, wait_for

CHUNK = 1 << 18  # numbers made at a time, so that their bits stay in the cache

# dtype -> integers of its size, the bits that stay random, the bits of 1/64
_BITS = {
    torch.bfloat16: (torch.int16, 0x807F - (1 << 16), 0x3C80),
    torch.float32: (torch.int32, 0x807FFFFF - (1 << 32), 0x3C800000),
}


def load_dummy(folder: Path, dtype: WeightDType, memory: SharedMemory, seed: int) -> None:
    """Fills `memory` with random weights for the config in `folder`, in place of `load_weights`.

    Raises:
        ModelError: as `read_spec`.
    """
    spec = read_spec(folder)
    layout = weight_layout(spec, dtype)
    assert memory.num_bytes >= layout.num_bytes, (memory.num_bytes, layout.num_bytes)
    targets = map_weights(memory, layout)
    fill(targets, seed, norm=1.0 - spec.norm_weight_offset)
    wait_for(targets)


def fill(targets: Mapping[str, Tensor], seed: int, norm: float = 1.0) -> None:
    """Draws every tensor (float32 or bfloat16); several at a time, as torch draws with one thread.

    Args:
        targets: contiguous tensors by name.
        norm: what the weights of norms are near.
    """

    def draw(name: str) -> int:
        tensor = targets[name]
        _draw(tensor.view(-1), _generator(name, seed))
        if "norm" in name and name.endswith(".weight"):
            tensor += norm
        return tensor.nbytes

    total = sum(tensor.nbytes for tensor in targets.values())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in told(pool.map(draw, targets), int, total, "drawing random weights"):
            pass


def _draw(flat: Tensor, generator: torch.Generator) -> None:
    integers, random_bits, exponent = _BITS[flat.dtype]
    for piece in torch.split(flat, CHUNK):
        words = torch.empty(math.ceil(piece.nbytes / 8), dtype=torch.int64)
        bits = words.random_(-(2**63), None, generator=generator).view(integers)[: len(piece)]
        piece.copy_(bits.bitwise_and_(random_bits).bitwise_or_(exponent).view(flat.dtype))


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
