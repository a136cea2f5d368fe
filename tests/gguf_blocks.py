"""GGUF's quantised blocks, made at random and taken apart number by number.

Written from the description of the blocks in ggml's headers (block_q4_0 and so on): slow, and as
plain as possible, since the library's vectorised code is compared with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

# Where a block has its float16 scales; each is set, all other bytes may be anything.
SCALES = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q4_K: [0, 2], Type.Q6_K: [208]}
SIZES = {  # of these scales, so that the numbers stand between -1 and 1
    Type.Q8_0: 1 / 128,
    Type.Q4_0: 1 / 8,
    Type.Q4_1: 1 / 16,
    Type.Q4_K: 1 / 1024,
    Type.Q6_K: 1 / 4096,
}


def random_blocks(kind: Type, rows: int, columns: int, seed: int = 0) -> NDArray[np.uint8]:
    """[rows, bytes of a row]: valid blocks whose every bit is random, but for the scales."""
    per_block, num_bytes = GGML_QUANT_SIZES[kind]
    assert columns % per_block == 0, (kind, columns)
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * columns // per_block, num_bytes), dtype=np.uint8)
    for at in SCALES[kind]:
        scales = (rng.uniform(-1, 1, len(blocks)) * SIZES[kind]).astype("<f2")
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def numbers(kind: Type, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[rows, columns] what the blocks stand for."""
    num_bytes = GGML_QUANT_SIZES[kind][1]
    values = [
        value for block in blocks.reshape(-1, num_bytes) for value in PLAIN[kind](block.tobytes())
    ]
    return np.array(values, np.float32).reshape(len(blocks), -1)


def _float16(data: bytes, at: int) -> float:
    value: float = struct.unpack_from("<e", data, at)[0]
    return value


def _q8_0(block: bytes) -> Iterator[float]:
    """A scale, then 32 signed bytes."""
    for (q,) in struct.iter_unpack("<b", block[2:34]):
        yield _float16(block, 0) * q


def _q4_0(block: bytes) -> Iterator[float]:
    """A scale, then 32 numbers of 4 bits around 8: first all low halves, then all high halves."""
    for shift in (0, 4):
        for byte in block[2:18]:
            yield _float16(block, 0) * ((byte >> shift & 15) - 8)


def _q4_1(block: bytes) -> Iterator[float]:
    """A scale and a minimum, then as Q4_0 but from 0."""
    for shift in (0, 4):
        for byte in block[4:20]:
            yield _float16(block, 0) * (byte >> shift & 15) + _float16(block, 2)


def _q4_k(block: bytes) -> Iterator[float]:
    """256 numbers in 8 groups; scale and minimum of a group have 6 bits, packed in 12 bytes."""
    d, dmin, packed, nibbles = _float16(block, 0), _float16(block, 2), block[4:16], block[16:144]
    for group in range(8):
        if group < 4:
            scale, minimum = packed[group] & 63, packed[group + 4] & 63
        else:
            scale = packed[group + 4] & 15 | (packed[group - 4] >> 6) << 4
            minimum = packed[group + 4] >> 4 | (packed[group] >> 6) << 4
        # Two groups share 32 bytes: the first has the low halves.
        for byte in nibbles[32 * (group // 2) : 32 * (group // 2) + 32]:
            yield d * scale * (byte >> 4 * (group % 2) & 15) - dmin * minimum


def _q6_k(block: bytes) -> Iterator[float]:
    """256 numbers of 6 bits around 32: low 4 bits in 128 bytes, high 2 in 64; 16 signed scales."""
    low, high, scales = block[:128], block[128:192], struct.unpack("<16b", block[192:208])
    for i in range(256):
        half, quarter, j = i // 128, i % 128 // 32, i % 32
        lower = low[64 * half + 32 * (quarter % 2) + j] >> 4 * (quarter // 2) & 15
        upper = high[32 * half + j] >> 2 * quarter & 3
        yield _float16(block, 208) * scales[i // 16] * ((lower | upper << 4) - 32)


PLAIN: dict[Type, Callable[[bytes], Iterator[float]]] = {
    Type.Q8_0: _q8_0,
    Type.Q4_0: _q4_0,
    Type.Q4_1: _q4_1,
    Type.Q4_K: _q4_k,
    Type.Q6_K: _q6_k,
}
