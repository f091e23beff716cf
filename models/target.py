"""Where loaded weights are to run, and what is done to them there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from models.errors import ModelTooLarge, UnsupportedModel
from models.filling import materialize
from models.layers.linear import prepack
from models.native.attach import attach
from models.native.library import Library
from models.native.quantise import FORMATS, Packing, Quantise
from models.weights.blocks import Blocks
from models.weights.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a model is to be, and in which precision.

    `packed`: for inference, as `layers.linear` packs, or for `kernels` where there are any. `quantise`: what
    only those can compute with. `memory`: bytes that loading may take; None: as many as it wants.
    """

    device: torch.device
    dtype: torch.dtype
    packed: bool
    kernels: Library | None = None
    quantise: Quantise | None = None
    memory: int | None = None

    def materialize(self, module: nn.Module, checkpoint: Checkpoint, *, keep: bool = False) -> None:
        """Give storage to a module on the meta device, for what the checkpoint has; with `keep`, its blocks
        stay as they are wherever weights are quantised.

        Raises ModelTooLarge before anything is allocated.
        """
        if self.memory is not None:
            needed = self._bytes_needed(module, checkpoint, keep=keep)
            if needed > self.memory:
                precision = str(self.dtype).removeprefix("torch.")
                raise ModelTooLarge(checkpoint.path, precision=precision, needed=needed, memory=self.memory)
        materialize(module, self.device, self.dtype)

    def finish(self, module: nn.Module, kept: Mapping[nn.Module, Blocks] = MappingProxyType({})) -> int:
        """Make ready to run. Returns the number of parameters, which packing would hide.

        `kept`: the blocks of layers whose weights were not filled in. Raises UnsupportedModel where quantised
        weights cannot run.
        """
        parameters = sum(parameter.numel() for parameter in module.parameters())
        module.eval()
        if self.kernels_used is not None:
            packing = Packing(library=self.kernels_used, dtype=self.dtype, quantise=self.quantise, kept=kept)
            attach(module, packing)
        elif self.quantise is not None:
            raise UnsupportedModel(
                f"only our own kernels compute with {self.quantise.value} weights, and there are none "
                f"for {self.device.type} and {self.dtype}"
            )
        elif self.packed:
            prepack(module)
        return parameters

    def _bytes_needed(self, module: nn.Module, checkpoint: Checkpoint, *, keep: bool) -> int:
        """At the peak of loading: all parameters before they are packed, one after the other; of blocks that
        are kept, only what packing makes of them."""
        parameters = sum(parameter.numel() for parameter in module.parameters())
        needed = parameters * self.dtype.itemsize
        if not keep or self.quantise is None:
            return needed
        for name in checkpoint.names():
            blocks = checkpoint.blocks(name)
            if blocks is not None:
                needed -= blocks.shape.numel() * self.dtype.itemsize - blocks.raw.nbytes
        return needed

    @property
    def kernels_used(self) -> Library | None:
        """`kernels`, where they can compute this; None where PyTorch does."""
        able = self.packed and self.device.type == "cpu" and self.dtype in FORMATS
        return self.kernels if able else None

    def fingerprint(self, weights: Sequence[str]) -> str:
        """Changes with whatever may change a result: the fingerprints of `weights`, precision, the kind of
        device, kernels."""
        kernels = "torch" if self.kernels is None else self.kernels.name
        rounded = None if self.quantise is Quantise.KEEP else self.quantise  # what is kept has the same bits
        quantised = "" if rounded is None else rounded.value
        parts = (*weights, str(self.dtype), self.device.type, torch.__version__, kernels, quantised)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
