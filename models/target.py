"""Where loaded weights are to run, and what is done to them there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from models.layers.linear import prepack


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a model is to be, and in which precision. `packed`: for inference, as `layers.linear` packs."""

    device: torch.device
    dtype: torch.dtype
    packed: bool

    def finish(self, module: nn.Module) -> int:
        """Make ready to run. Returns the number of parameters, which packing would hide."""
        parameters = sum(parameter.numel() for parameter in module.parameters())
        module.eval()
        if self.packed:
            prepack(module)
        return parameters

    def fingerprint(self, weights: Sequence[str]) -> str:
        """Changes with whatever may change a result: the fingerprints of `weights`, precision, the kind of
        device, torch's kernels."""
        parts = (*weights, str(self.dtype), self.device.type, torch.__version__)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
