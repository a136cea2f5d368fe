"""Philox4x32-10: random numbers as a function of (key, counter), without any state.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. With the
counter (offset, 0, 0, 0) and a 64-bit seed as the key, `uniform` is Triton's tl.rand(seed, offset).
A token that is sampled again after a preemption, or by another worker, gets the same number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
LOW = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)
# Just under 2^-31, so that the largest 31-bit number, rounded up to 2^31, stays below 1.
SCALE = np.float32(4.6566127342e-10)

Words = NDArray[np.uint32]


def philox(counter: Words, key: Words) -> Words:
    """Four random words for each row.

    Args:
        counter: [n, 4] uint32.
        key: [n, 2] uint32.

    Returns:
        [n, 4] uint32.
    """
    c0, c1, c2, c3 = counter.T
    k0, k1 = key.T
    for _ in range(ROUNDS):
        high0, low0 = _multiply(MULTIPLIERS[0], c0)
        high1, low1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + KEY_STEPS[0], k1 + KEY_STEPS[1]  # modulo 2^32
    return np.stack([c0, c1, c2, c3], axis=1)


def uniform(seeds: NDArray[np.uint64], offsets: NDArray[np.uint32]) -> NDArray[np.float32]:
    """One number in [0, 1) for each (seed, offset).

    Args:
        seeds, offsets: [n].

    Returns:
        [n] float32.
    """
    key = np.stack([seeds & LOW, seeds >> SHIFT], axis=1).astype(np.uint32)
    counter = np.zeros((len(offsets), 4), np.uint32)
    counter[:, 0] = offsets
    bits = philox(counter, key)[:, 0].view(np.int32)
    return np.where(bits < 0, -bits - 1, bits).astype(np.float32) * SCALE


def _multiply(a: np.uint64, b: Words) -> tuple[Words, Words]:
    """The high and the low word of a 32 x 32 bit product."""
    product = a * b.astype(np.uint64)
    return (product >> SHIFT).astype(np.uint32), (product & LOW).astype(np.uint32)
