"""Counter-based randomness: a number depends on nothing but what it is for.

No generator state means that a stream draws the same numbers alone, in a batch, after preemption
or on another machine. Philox 4x64-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
(SC'11), in NumPy's implementation. The key is (seed, sample), the counter the position, and each
purpose has one of the block's four words to itself.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Which of the four words of a position's block."""

    TOKEN = 0  # chooses the token
    XTC = 1  # decides whether the top choices are excluded


def uniform(seed: int, sample: int, position: int, purpose: int = Purpose.TOKEN) -> float:
    """The number in [0, 1) for `position` of the `sample`-th text of `seed`; 53 bits of it.

    `seed` and `sample` are below 2**64. Raises ValueError for a purpose that is not 0 to 3: the next word
    would be another position's.
    """
    if not 0 <= purpose < 4:
        raise ValueError(f"a block has four words; there is no number {purpose}")
    words = np.random.Philox(key=seed + (sample << 64), counter=position).random_raw(purpose + 1)
    return float(int(words[purpose]) >> 11) * 2.0**-53
