"""An encoder as a program."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.blocks import Block
from models.encoder import Encoder
from models.layers.lora import Mixing
from models.layers.self_attention import SelfAttention
from models.native.blocks import lower
from models.native.errors import Unsupported
from models.native.heads import Geometry, bias_heads, plain_heads
from models.native.library import Library
from models.native.lowering import Attention, Lowering
from models.native.program import Slices, starts_of
from models.native.stack import Stack, turn
from models.native.structures import BLOCK_TOKENS, Format, Run

_DTYPES = {Format.FLOAT32: torch.float32, Format.BFLOAT16: torch.bfloat16}


class EncoderProgram:
    """What an encoder does behind its embeddings.

    Texts lie in blocks, as a decoder's in its cache, but of one layer at a time: nobody reads them later.
    """

    def __init__(self, library: Library, encoder: Encoder, format_: Format, cache: Format) -> None:
        """Raises Unsupported where there is no operation for a part of it."""
        config = encoder.config
        self._encoder = encoder
        self._shape = Geometry(
            heads=config.heads, kv_heads=config.heads, head_dim=config.head_size, format=cache
        )
        self._scratch = Scratch(self._shape)
        self._stack = Stack(library, config.hidden_size, format_, cache, self._write)

    def __call__(
        self, hidden: Tensor, positions: Tensor, lengths: Sequence[int], mixing: Mixing | None = None
    ) -> Tensor:
        """Texts of `lengths` tokens, laid end to end, positions [T]: hidden [T, hidden], what the embeddings
        say -> [T, hidden] float32, what the last norm does."""
        run = Run(tokens=len(hidden))
        slices = texts(lengths)
        slices.fill(run.views[0])
        rotations = turn(run, self._encoder.sights.rotaries, positions)
        addresses = self._scratch.reserve(len(slices.blocks))
        run.keys, run.values = (each.ctypes.data for each in addresses)
        result = self._stack.run(hidden, run, mixing)
        del slices, rotations, addresses  # not before: the run holds their addresses
        return result

    def _write(self, lowering: Lowering) -> None:
        for layer, blocks in enumerate(self._encoder.runs()):
            for block in blocks:
                lower(cast(Block, block), self._attention(layer, cast(Block, block).attention), lowering)
        if self._encoder.norm is not None:
            lowering.finish(self._encoder.norm)

    def _attention(self, layer: int, attention: object) -> Attention:
        """That of one layer. Only a plain one is known: what is derived from it does something else."""
        if type(attention) is not SelfAttention:
            raise Unsupported(f"the attention {type(attention).__name__}")
        config, sights = self._encoder.config, self._encoder.sights
        local = config.local is not None and layer in config.local.layers
        heads = plain_heads(self._shape, scale=sights.scale, causal=False)
        heads.window = config.local.window if config.local is not None and local else 0
        kept = bias_heads(heads, sights.bias)
        rotation = len(sights.rotaries) - 1 if local else 0
        if sights.rotaries:
            heads.rotated = config.rotaries[rotation].size or config.head_size
        return Attention(
            projection=attention.qkv, out=attention.out, heads=heads, rotation=rotation, kept=kept
        )


class Scratch:
    """Blocks of keys and values for one layer of one batch. They grow, and are used again."""

    def __init__(self, shape: Geometry) -> None:
        self._shape = shape
        self._memory: tuple[Tensor, ...] = ()
        self._room = 0

    def reserve(self, blocks: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Room for so many. -> where keys and values begin, each in a list of one layer."""
        if blocks > self._room:
            room = 1 << (blocks - 1).bit_length()
            size = (room, self._shape.kv_heads, BLOCK_TOKENS, self._shape.padded_dim)
            # Zeros, because heads are padded with what lies there, and what is multiplied must be a number.
            self._memory = tuple(torch.zeros(size, dtype=_DTYPES[self._shape.format]) for _ in range(2))
            self._room = room  # not before: there may be no memory for so many
        keys, values = (np.array([memory.data_ptr()], np.uint64) for memory in self._memory)
        return keys, values


def texts(lengths: Sequence[int]) -> Slices:
    """Whole texts, each in blocks of its own, which lie in order."""
    tables = starts_of(-(-length // BLOCK_TOKENS) for length in lengths)
    return Slices(
        rows=starts_of(lengths),
        starts=array("i", [0] * len(lengths)),
        lengths=array("i", lengths),
        tables=tables,
        blocks=array("i", range(tables[-1])),
    )
