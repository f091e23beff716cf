"""Each way to join attention and MLP to the stream: once in `models.blocks`, and once here as operations."""

from __future__ import annotations

from models.blocks import (
    Block,
    OutputNormBlock,
    ParallelBlock,
    PostNormBlock,
    PreNormBlock,
    SandwichBlock,
    SharedParallelBlock,
)
from models.native.errors import Unsupported
from models.native.lowering import Attention, Lowering
from models.seq2seq import CrossBlock, PostNormCrossBlock, PreNormCrossBlock


def lower(block: Block, attention: Attention, to: Lowering) -> None:
    """Write what `block` does to the stream. Raises Unsupported."""
    match block:
        case PreNormBlock():
            to.attention(attention, to.read(block.attention_norm), to.stream, add=True)
            to.mlp(block.mlp, to.read(block.mlp_norm), to.stream, add=True)
        case PostNormBlock():
            to.attention(attention, to.reread(), to.stream, add=True)
            to.mlp(block.mlp, to.renew(block.attention_norm), to.stream, add=True)
            to.renew(block.mlp_norm)
        case OutputNormBlock():
            _lower_output_norm(block, attention, to)
        case SandwichBlock():
            _lower_sandwich(block, attention, to)
        case ParallelBlock():
            rows = to.read(block.attention_norm, shared=True)
            others = to.read(block.mlp_norm, shared=True, name="mlp rows")
            to.attention(attention, rows, to.stream, add=True)
            to.mlp(block.mlp, others, to.stream, add=True)
        case SharedParallelBlock():
            rows = to.read(block.attention_norm, shared=True)
            to.attention(attention, rows, to.stream, add=True)
            to.mlp(block.mlp, rows, to.stream, add=True)
        case _:
            raise Unsupported(f"the block {type(block).__name__}")


def lower_cross(block: CrossBlock, own: Attention, cross: Attention, to: Lowering) -> None:
    """The same of three parts: `own` reads the text itself, `cross` its source. Raises Unsupported."""
    match block:
        case PreNormCrossBlock():
            to.attention(own, to.read(block.attention_norm), to.stream, add=True)
            to.attention(cross, to.read(block.cross_norm), to.stream, add=True)
            to.mlp(block.mlp, to.read(block.mlp_norm), to.stream, add=True)
        case PostNormCrossBlock():
            to.attention(own, to.reread(), to.stream, add=True)
            to.attention(cross, to.renew(block.attention_norm), to.stream, add=True)
            to.mlp(block.mlp, to.renew(block.cross_norm), to.stream, add=True)
            to.renew(block.mlp_norm)
        case _:
            raise Unsupported(f"the block {type(block).__name__}")


def _lower_output_norm(block: OutputNormBlock, attention: Attention, to: Lowering) -> None:
    part = to.part
    to.attention(attention, to.read(None), part, add=False)
    to.add_normed(block.attention_norm, part)
    to.mlp(block.mlp, to.read(None), part, add=False)
    to.add_normed(block.mlp_norm, part)


def _lower_sandwich(block: SandwichBlock, attention: Attention, to: Lowering) -> None:
    part = to.part
    to.attention(attention, to.read(block.attention_norm), part, add=False)
    to.add_normed(block.attention_out_norm, part)
    to.mlp(block.mlp, to.read(block.mlp_norm), part, add=False)
    to.add_normed(block.mlp_out_norm, part)
