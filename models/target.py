"""Where loaded weights are to run, and what is done to them there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from models.layers.linear import prepack
from models.native.attach import FORMATS, attach
from models.native.library import Library


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a model is to be, and in which precision.

    `packed`: for inference, as `layers.linear` packs, or for `kernels` where there are any.
    """

    device: torch.device
    dtype: torch.dtype
    packed: bool
    kernels: Library | None = None

    def finish(self, module: nn.Module) -> int:
        """Make ready to run. Returns the number of parameters, which packing would hide."""
        parameters = sum(parameter.numel() for parameter in module.parameters())
        module.eval()
        if self.packed and not self._attach(module):
            prepack(module)
        return parameters

    def _attach(self, module: nn.Module) -> bool:
        """Whether the module runs on the kernels now."""
        if self.kernels is None or self.device.type != "cpu" or self.dtype not in FORMATS:
            return False
        return attach(module, self.kernels, self.dtype)

    def fingerprint(self, weights: Sequence[str]) -> str:
        """Changes with whatever may change a result: the fingerprints of `weights`, precision, the kind of
        device, kernels."""
        kernels = "torch" if self.kernels is None else self.kernels.name
        parts = (*weights, str(self.dtype), self.device.type, torch.__version__, kernels)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
