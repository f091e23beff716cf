"""Counter-based randomness: a number depends on nothing but what it is for.

No generator state means that a stream draws the same numbers alone, in a batch, after preemption
or on another machine. Philox 4x64-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
(SC'11). The key is (seed, sample), the counter one more than the position, and each purpose has one of the
block's four words to itself.
"""

from __future__ import annotations

from enum import IntEnum

ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # what the key grows by: the golden ratio, sqrt(3) - 1
WORD = 2**64 - 1


class Purpose(IntEnum):
    """Which of the four words of a position's block."""

    TOKEN = 0  # chooses the token
    XTC = 1  # decides whether the top choices are excluded


def uniform(seed: int, sample: int, position: int, purpose: int = Purpose.TOKEN) -> float:
    """The number in [0, 1) for `position` of the `sample`-th text of `seed`; 53 bits of it.

    `seed` and `sample` are below 2**64, `position` below 2**64 - 1. Raises ValueError for a purpose that is
    not 0 to 3: the next word would be another position's.
    """
    if not 0 <= purpose < 4:
        raise ValueError(f"a block has four words; there is no number {purpose}")
    return (_block(seed, sample, position + 1)[purpose] >> 11) * 2.0**-53


def _block(seed: int, sample: int, counter: int) -> tuple[int, int, int, int]:
    """The four words of a counter. In Python, as a NumPy generator takes longer to make than to ask."""
    a, b, c, d = counter, 0, 0, 0
    for _ in range(ROUNDS):
        left, right = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b, c, d = (right >> 64) ^ b ^ seed, right & WORD, (left >> 64) ^ d ^ sample, left & WORD
        seed, sample = (seed + WEYL[0]) & WORD, (sample + WEYL[1]) & WORD
    return a, b, c, d
