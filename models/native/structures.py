"""What is handed to the kernels: `source/program.h`, field by field."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_float, c_int32, c_void_p
from enum import IntEnum, IntFlag

NONE = -1
PANEL = 32
ALIGNMENT = 64
BLOCK_TOKENS = 16
GROUP = 32


class Format(IntEnum):
    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2
    Q8_0 = 3
    Q4_0 = 4
    Q4_1 = 5
    Q4_K = 6


class Function(IntEnum):
    IDENTITY = 0
    GELU = 1
    GELU_TANH = 2
    GELU_SIGMOID = 3
    SILU = 4
    RELU = 5
    RELU_SQUARED = 6
    TANH = 7


class NormKind(IntEnum):
    NONE = 0
    LAYER = 1
    RMS = 2


class Kind(IntEnum):
    NORMALISE = 0
    LINEAR = 1
    ACTIVATE = 2
    HEADS = 3
    ATTEND = 4


class BiasKind(IntEnum):
    NONE = 0
    ALIBI = 1
    ALIBI_ROUNDED = 2
    BY_DISTANCE = 3


class Parts(IntFlag):
    QUERIES = 1
    KEYS = 2
    ALL = 3


class Weight(Structure):
    nbytes = 0  # of the matrix: what a product reads. For profiles, and not handed over

    _fields_ = (
        ("format", c_int32),
        ("operand", c_int32),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("gated", c_int32),
        ("data", c_void_p),
        ("bias", c_void_p),
    )


class Heads(Structure):
    _fields_ = (
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("padded_dim", c_int32),
        ("format", c_int32),
        ("rotated", c_int32),
        ("clip", c_float),
        ("norm", c_int32),
        ("norm_span", c_int32),
        ("norm_eps", c_float),
        ("query_norm", c_void_p),
        ("query_norm_bias", c_void_p),
        ("key_norm", c_void_p),
        ("key_norm_bias", c_void_p),
        ("scale", c_float),
        ("cap", c_float),
        ("causal", c_int32),
        ("window", c_int32),
        ("bias", c_int32),
        ("slopes", c_void_p),
        ("distances", c_int32),
        ("bias_scale", c_float),
    )


class Operation(Structure):
    _fields_ = (
        ("kind", c_int32),
        ("input", c_int32),
        ("output", c_int32),
        ("operand", c_int32),
        ("width", c_int32),
        ("add", c_int32),
        ("private", c_int32),
        ("function", c_int32),
        ("gated", c_int32),
        ("norm", c_int32),
        ("eps", c_float),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("matrix", POINTER(Weight)),
        ("heads", POINTER(Heads)),
        ("parts", c_int32),
        ("rotation", c_int32),
        ("layer", c_int32),
        ("view", c_int32),
        ("format", c_int32),
    )


class View(Structure):
    _fields_ = (
        ("slices", c_int32),
        ("rows", c_void_p),
        ("starts", c_void_p),
        ("lengths", c_void_p),
        ("tables", c_void_p),
        ("blocks", c_void_p),
    )


class Run(Structure):
    _fields_ = (
        ("tokens", c_int32),
        ("first", c_int32),
        ("last", c_int32),
        ("buffers", c_void_p),
        ("views", View * 2),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("cosines", c_void_p * 2),
        ("sines", c_void_p * 2),
        ("nanoseconds", c_void_p),
    )
