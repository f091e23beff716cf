"""Rows of logits, as a sampler looks at them: the largest, the sum of all exponentials, the leaders."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
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
    library: Library, logits: Tensor, places: Sequence[int], divisors: Sequence[float], most: int
) -> Surveyed:
    """Of the rows `places` of `logits` [.., vocabulary], float32, each divided by its divisor, positive and
    finite; `most` leaders of each, minus infinity not among them."""
    assert logits.device.type == "cpu"
    assert logits.dtype == torch.float32
    assert logits.stride(1) == 1
    rows = len(places)
    asked = array("i", places), array("f", divisors)
    best, masses = array("q", bytes(8 * rows)), array("d", bytes(8 * rows))  # NumPy's are slow to ask where
    counts = array("i", bytes(4 * rows))
    tokens, values = _room(rows, most)
    request = _Survey(
        logits=logits.data_ptr(),
        places=asked[0].buffer_info()[0],
        divisors=asked[1].buffer_info()[0],
        stride=logits.stride(0),
        rows=rows,
        width=logits.shape[-1],
        most=most,
        best=best.buffer_info()[0],
        masses=masses.buffer_info()[0],
        leaders=tokens.ctypes.data if most else None,
        values=values.ctypes.data if most else None,
        found=counts.buffer_info()[0],
    )
    library.survey(ctypes.byref(request))
    leaders = Leaders(tokens, values, np.frombuffer(counts, np.int32))
    return Surveyed(np.frombuffer(best, np.int64), np.frombuffer(masses), leaders)


def _room(rows: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For the leaders of each row, and their logits."""
    return np.zeros((rows, most), np.int64), np.zeros((rows, most), np.float32)
