"""Rows of logits, as a sampler looks at them: the largest, the sum of all exponentials, the leaders."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_int32, c_int64, c_void_p
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.native.library import Library


class _Survey(Structure):
    """`source/survey.h`, field by field."""

    _fields_ = (
        ("logits", c_void_p),
        ("places", c_void_p),
        ("divisors", c_void_p),
        ("stride", c_int64),
        ("rows", c_int32),
        ("width", c_int32),
        ("most", c_int32),
        ("best", c_void_p),
        ("masses", c_void_p),
        ("leaders", c_void_p),
        ("values", c_void_p),
        ("found", c_void_p),
    )


@dataclass(frozen=True, slots=True)
class Leaders:
    """Of each row as many as were found, at most so many as were asked for; what is behind them is zero."""

    tokens: NDArray[np.int64]  # [rows, most] the largest logit's first, equals by token
    logits: NDArray[np.float32]  # [rows, most]
    counts: NDArray[np.int32]  # [rows]; 0 where a row has no softmax


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Each depends on its own row only, bit for bit."""

    best: NDArray[np.int64]  # [rows] the largest logit's token: of equals the first, of NaN the first
    masses: NDArray[np.float64]  # [rows] log(sum(exp(logit - largest))), NaN where a row has no softmax
    leaders: Leaders


def survey(
    library: Library, logits: Tensor, places: NDArray[np.int32], divisors: NDArray[np.float32], most: int
) -> Surveyed:
    """Of the rows `places` of `logits` [.., vocabulary], float32, each divided by its divisor, positive and
    finite; `most` leaders of each, minus infinity not among them."""
    assert logits.device.type == "cpu"
    assert logits.dtype == torch.float32
    assert logits.stride(1) == 1
    rows = len(places)
    found = Surveyed(
        best=np.empty(rows, np.int64),
        masses=np.empty(rows),
        leaders=Leaders(
            tokens=np.zeros((rows, most), np.int64),
            logits=np.zeros((rows, most), np.float32),
            counts=np.zeros(rows, np.int32),
        ),
    )
    request = _Survey(
        logits=logits.data_ptr(),
        places=places.ctypes.data,
        divisors=divisors.ctypes.data,
        stride=logits.stride(0),
        rows=rows,
        width=logits.shape[-1],
        most=most,
        best=found.best.ctypes.data,
        masses=found.masses.ctypes.data,
        leaders=found.leaders.tokens.ctypes.data,
        values=found.leaders.logits.ctypes.data,
        found=found.leaders.counts.ctypes.data,
    )
    library.survey(ctypes.byref(request))
    return found
