"""Counter-based randomness: the number for a token depends on nothing but (seed, position).

No generator state means that a stream draws the same numbers alone, in a batch, after preemption
or on another machine. Philox 4x64-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
(SC'11), in NumPy's implementation.
"""

from __future__ import annotations

import numpy as np


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that chooses the token at `position` of a sequence; 53 bits of it."""
    bits = np.random.Philox(key=seed, counter=position).random_raw()
    return float(int(bits) >> 11) * 2.0**-53
