"""Gives a model that was loaded the kernels of this machine."""

from __future__ import annotations

from collections.abc import Container, Iterable

from torch import nn

from models.decoder import Decoder, LMHead
from models.encoder import Encoder
from models.heads import MaskedLMHead
from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.layers.mlp import GatedMlp, PlainMlp
from models.native.decoder import DecoderProgram
from models.native.encoder import EncoderProgram
from models.native.quantise import FORMATS, Packing
from models.native.seq2seq import CrossDecoderProgram
from models.native.weights import Matrix
from models.positions import Disentangled
from models.seq2seq import CrossDecoder


def attach(module: nn.Module, packing: Packing) -> None:
    """Pack every matrix of `module`, and put its blocks into programs. What is computed beside is float32.

    `packing.dtype`, float32 or bfloat16, is that of caches, and of operands unless they are rounded further.
    Where there is no operation for a stack's attention (`runs_apart`), PyTorch computes what is between its
    products.
    """
    parts = list(module.modules())
    for part in parts:
        _widen(part)
    gated = {part.gate_up for part in parts if isinstance(part, GatedMlp)}
    coarse = {layer for part in parts if isinstance(part, Decoder | Encoder) for layer in _coarse(part)}
    for part in parts:
        _pack(part, packing, gated, coarse)
    for part in parts:
        _lower(part, packing)


def runs_apart(encoder: Encoder) -> bool:
    """Whether there is no operation for its attention: DeBERTa's. It has no program then, on any kernels."""
    return isinstance(encoder.config.relative, Disentangled)


def _coarse(stack: nn.Module) -> Iterable[nn.Module]:
    """What loses least by few bits: where MLPs widen, but for the first and the last eighth of the blocks,
    which llama.cpp's mixtures spare as well."""
    widening = list[nn.Module]()
    for part in stack.modules():
        match part:
            case GatedMlp():
                widening.append(part.gate_up)
            case PlainMlp():
                widening.append(part.up)
    spared = len(widening) // 8
    return widening[spared : len(widening) - spared]


def _pack(
    part: nn.Module, packing: Packing, gated: Container[nn.Module], coarse: Container[nn.Module]
) -> None:
    match part:
        case Linear(matrix=None):
            part.replace(packing.matrix(part, gated=part in gated, coarse=part in coarse))
        case Embedding() if part in packing.kept:
            _pack_words(part, packing)
        case Decoder(head=LMHead(linear=None)):
            _pack_words(part.embeddings.words, packing)
        case MaskedLMHead():
            words = _pack_words(part.words, packing)
            part.matrix = words if part.bias is None else words.with_bias(part.bias)


def _lower(part: nn.Module, packing: Packing) -> None:
    formats = packing.operand, FORMATS[packing.dtype]
    match part:
        case CrossDecoder():
            part.program = CrossDecoderProgram(packing.library, part, *formats)
        case Decoder():
            part.program = DecoderProgram(packing.library, part, *formats)
        case Encoder() if not runs_apart(part):
            part.program = EncoderProgram(packing.library, part, *formats)


def _widen(part: nn.Module) -> None:
    """Small parameters become float32. Tables keep their precision; what is read from them is float32."""
    if isinstance(part, Embedding):
        part.wide = True
    elif not isinstance(part, Linear):
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.float(), requires_grad=False))


def _pack_words(words: Embedding, packing: Packing) -> Matrix:
    if words.matrix is None:
        words.replace(packing.matrix(words))
    assert words.matrix is not None
    return words.matrix
