"""Temperature, fixed or following the entropy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from server.request import Sampling

COLDEST, HOTTEST = 1e-6, 1e30  # between these, no logit of a float32 leaves its range


def temperature(sampling: Sampling, flatness: Callable[[], float]) -> float:
    """What logits are divided by, within [`COLDEST`, `HOTTEST`].

    With a `dynatemp_range` it lies between `temperature` minus and plus that (at least 0), where `flatness`,
    the share of the greatest possible entropy, to the power of `dynatemp_exponent` puts it (as in llama.cpp).
    """
    wanted = sampling.temperature
    low = max(0.0, wanted - sampling.dynatemp_range)
    high = wanted + sampling.dynatemp_range
    if high > low:  # a range may be too small to make a difference
        with np.errstate(all="ignore"):  # a negative power of zero is infinite: as hot as can be
            wanted = low + (high - low) * float(np.float_power(flatness(), sampling.dynatemp_exponent))
    return min(max(wanted, COLDEST), HOTTEST)
