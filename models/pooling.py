"""From the vectors of a text's tokens to one vector for the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import Pooling


def _weighted_mean(text: Tensor) -> Tensor:
    weights = torch.arange(1, len(text) + 1, device=text.device, dtype=text.dtype)
    return weights @ text / weights.sum()


_FUNCTIONS: Mapping[Pooling, Callable[[Tensor], Tensor]] = {
    Pooling.CLS: lambda text: text[0],
    Pooling.MAX: lambda text: text.amax(dim=0),
    Pooling.MEAN: lambda text: text.mean(dim=0),
    Pooling.MEAN_SQRT_LEN: lambda text: text.sum(dim=0) / len(text) ** 0.5,
    Pooling.WEIGHTED_MEAN: _weighted_mean,
    Pooling.LAST: lambda text: text[-1],
}


def pool(hidden: Tensor, lengths: Sequence[int], pooling: Pooling) -> Tensor:
    """One vector for each text of a packed batch: [T, hidden] -> [texts, hidden], float32.

    `lengths` sum to T, each at least 1. Each text is summed on its own, so neighbours do not matter.
    """
    function, hidden = _FUNCTIONS[pooling], hidden.float()
    if len(lengths) == 1:
        return function(hidden)[None]
    return torch.stack([function(text) for text in hidden.split_with_sizes(list(lengths))])


def normalize(vectors: Tensor) -> Tensor:
    """Scale to unit length: [N, hidden] -> [N, hidden]. A zero vector stays zero."""
    return F.normalize(vectors, dim=-1)
