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
    """Those that were asked for by name, or that quantised weights need, cannot be had."""


def open_kernels(
    kernels: str,
    *,
    cache: Path,
    threads: int,
    device: torch.device,
    dtype: torch.dtype,
    quantise: Quantise | None = None,
) -> Library | None:
    """`kernels` as `--kernels` says it; None where PyTorch computes: as asked for, on a GPU, or, said in the
    log, for want of a compiler or of kernels for `dtype`.

    Raises KernelsUnavailable where they are asked for by name and cannot be had, or where weights are to be
    quantised, which PyTorch does not compute with.
    """
    missing = _out_of_question(kernels, device, dtype)
    if missing is None:
        try:
            return open_library(cache, kernels=kernels, threads=threads)
        except CannotBuild as error:
            missing = str(error)
    if quantise is not None:
        raise KernelsUnavailable(f"--quantize {quantise.value} needs kernels of our own: {missing}")
    if kernels not in ("auto", "torch"):
        raise KernelsUnavailable(f"--kernels {kernels}: {missing}")
    if kernels == "auto" and device.type == "cpu":
        logger.warning("no kernels of our own: %s. PyTorch computes, three to five times slower", missing)
    return None


def _out_of_question(kernels: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why none need be looked for; None where they may be had."""
    if kernels == "torch":
        return "--kernels torch chooses PyTorch's"
    if device.type != "cpu":
        return f"they are for CPUs, not for {device.type}"
    if dtype not in FORMATS:
        name = str(dtype).removeprefix("torch.")
        return f"they compute in float32 and bfloat16, not in {name}: see --dtype"
    return None
