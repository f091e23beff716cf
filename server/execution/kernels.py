"""What computes on a CPU: our kernels where they can be had, else PyTorch."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from models.native.building import CannotBuild
from models.native.library import Library, open_library
from models.native.quantise import FORMATS
from server.execution.device import DeviceError

logger = logging.getLogger(__name__)


class KernelsUnavailable(DeviceError):
    """Those that were asked for by name cannot be had."""


def open_kernels(
    kernels: str, cache: Path, threads: int, device: torch.device, dtype: torch.dtype
) -> Library | None:
    """None where PyTorch computes: as asked for, on a GPU, or, said in the log, for want of a compiler.

    Raises KernelsUnavailable where others than "auto" cannot be had.
    """
    if kernels == "torch" or device.type != "cpu":
        return None
    try:
        if dtype not in FORMATS:
            raise CannotBuild(f"there are none for {dtype}")
        return open_library(cache, kernels=kernels, threads=threads)
    except CannotBuild as error:
        if kernels != "auto":
            raise KernelsUnavailable(f"--kernels {kernels}: {error}") from error
        logger.warning("no kernels of our own: %s. PyTorch computes, three to five times slower", error)
        return None
