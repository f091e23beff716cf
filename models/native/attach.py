"""Gives a model that was loaded the kernels of this machine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from models.decoder import Decoder, LMHead
from models.heads import MaskedLMHead
from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.layers.mlp import GatedMlp
from models.native.decoder import DecoderProgram
from models.native.library import Library
from models.native.structures import Format
from models.native.weights import Matrix

FORMATS = {torch.float32: Format.FLOAT32, torch.bfloat16: Format.BFLOAT16}


def attach(module: nn.Module, library: Library, dtype: torch.dtype) -> bool:
    """Pack every matrix of `module`, and put its blocks into programs. What is computed beside is float32.

    `dtype`, float32 or bfloat16, is that of matrices and caches. False: there is no program for this kind of
    model, and nothing was done.
    """
    if not isinstance(module, Decoder):
        return False
    format_ = FORMATS[dtype]
    parts = list(module.modules())
    for part in parts:
        _widen(part)
    _pack(parts, library, format_)
    module.program = DecoderProgram(library, module, format_, format_)
    return True


def _pack(parts: Sequence[nn.Module], library: Library, format_: Format) -> None:
    gated = {part.gate_up for part in parts if isinstance(part, GatedMlp)}
    for part in parts:
        match part:
            case Linear():
                part.replace(Matrix(library, part.weight, part.bias, format_, gated=part in gated))
            case Decoder(head=LMHead(linear=None)):
                _pack_words(part.embeddings.words, library, format_)
            case MaskedLMHead():
                _pack_words(part.words, library, format_)


def _widen(part: nn.Module) -> None:
    """Small parameters become float32. Tables keep their precision; what is read from them is float32."""
    if isinstance(part, Embedding):
        part.wide = True
    elif not isinstance(part, Linear):
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.float(), requires_grad=False))


def _pack_words(words: Embedding, library: Library, format_: Format) -> None:
    if words.matrix is None:
        words.replace(Matrix(library, words.weight, None, format_))
