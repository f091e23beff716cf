"""What computes on a CPU: our kernels where they can be had, else PyTorch."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from models.native.building import CannotBuild
from models.native.library import Library, open_library
from models.native.quantise import FORMATS, Quantise
from server.execution.device import DeviceError

logger = logging.getLogger(__name__)


class KernelsUnavailable(DeviceError):
    """Those that were asked for by name cannot be had."""


def open_kernels(
    kernels: str,
    cache: Path,
    threads: int,
    device: torch.device,
    dtype: torch.dtype,
    quantise: Quantise | None = None,
) -> Library | None:
    """None where PyTorch computes: as asked for, on a GPU, or, said in the log, for want of a compiler.

    Raises KernelsUnavailable where others than "auto" cannot be had, or where weights are to be quantised,
    which PyTorch does not compute with.
    """
    try:
        if device.type != "cpu":
            raise CannotBuild(f"they are for CPUs, not for {device.type}")
        if kernels == "torch":
            raise CannotBuild("--kernels torch chooses PyTorch's")
        if dtype not in FORMATS:
            raise CannotBuild(f"there are none for {dtype}")
        return open_library(cache, kernels=kernels, threads=threads)
    except CannotBuild as error:
        if quantise is not None:
            needed = f"--quantize {quantise.value} needs kernels of our own"
            raise KernelsUnavailable(f"{needed}: {error}") from error
        if kernels == "torch" or device.type != "cpu":
            return None
        if kernels != "auto":
            raise KernelsUnavailable(f"--kernels {kernels}: {error}") from error
        logger.warning("no kernels of our own: %s. PyTorch computes, three to five times slower", error)
        return None
