"""The encoder of every BERT-like family, and of encoder-decoders: they differ in configuration only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast

from torch import Tensor, nn

from models.blocks import BLOCKS, Block
from models.config import EncoderConfig, Sharing
from models.layers.bias import RelativeBias
from models.layers.disentangled import DisentangledAttention, DistanceTable
from models.layers.embedding import Embeddings, FactorisedEmbeddings
from models.layers.lora import Mixing
from models.layers.norm import build_norm
from models.layers.rotary import RotaryEmbedding
from models.layers.self_attention import EncoderContext, SelfAttention
from models.ops.packed import Packing, Sight, places, plan
from models.positions import Disentangled, Relative


class BlockProgram(Protocol):
    """All blocks of an encoder and its last norm, run at once: `models.native.encoder`."""

    def __call__(
        self, hidden: Tensor, positions: Tensor, lengths: Sequence[int], mixing: Mixing | None
    ) -> Tensor:
        """What the embeddings say [T, hidden] -> what the last norm does [T, hidden], float32.

        `hidden` may be overwritten.
        """
        ...


class Encoder(nn.Module):
    """Texts end to end, without padding: only attention needs to know where one ends.

    Devlin et al. 2018, arXiv 1810.04805; the encoder of Vaswani et al. 2017, §3.1.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _embeddings(config)
        self.sights = EncoderSights(config)
        self.blocks = _blocks(config)
        norm = build_norm(config.norm, config.hidden_size, config.norm_eps)
        self.norm = norm if config.final_norm else None
        self.program: BlockProgram | None = None  # blocks and the last norm in one, where there are kernels

    def forward(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        segments: Tensor | None = None,
        mixing: Mixing | None = None,
    ) -> Tensor:
        """Encode texts of `lengths` tokens each, laid end to end: tokens [T] -> hidden [T, hidden].

        `segments` [T] tell the first text of a pair (0) from the second (1); None: there are no pairs.
        `mixing`: which tokens run with which adapter. ValueError where `sum(lengths)` is not T, a length not
        between 1 and the model's context length, or segments are named that the model does not tell apart.
        """
        if sum(lengths) != len(tokens):
            raise ValueError(f"lengths sum to {sum(lengths)}, but there are {len(tokens)} tokens")
        if max(lengths, default=0) > self.config.context_length:
            raise ValueError(
                f"a text has {max(lengths)} tokens; the model takes {self.config.context_length}"
            )
        positions = places(lengths, tokens.device)
        hidden = self.embeddings(tokens, positions, segments)
        if self.program is not None:
            return self.program(hidden, positions, lengths, mixing)
        return self._through(hidden, self.sights.look(Packing.build(lengths, tokens.device), mixing))

    def _through(self, hidden: Tensor, contexts: Iterable[EncoderContext]) -> Tensor:
        """All blocks, each with its layer's context, and the last norm: [T, hidden] -> [T, hidden]."""
        for run, context in zip(self.runs(), contexts, strict=True):
            for block in run:
                hidden = block(hidden, context)
        return hidden if self.norm is None else self.norm(hidden)

    def runs(self) -> Iterator[Iterable[nn.Module]]:
        """For each layer, the blocks that it runs in turn."""
        sharing, layers = self.config.sharing, self.config.layers
        if sharing is None:
            return ([block] for block in self.blocks)
        numbers = (int(layer / (layers / sharing.groups)) for layer in range(layers))  # as the authors round
        return (cast(nn.ModuleList, self.blocks[number]) for number in numbers)


class EncoderSights(nn.Module):
    """How the layers of an encoder look at a text: what all see alike, and what local ones see."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        relative = config.relative
        self.bias = (
            RelativeBias(relative, config.heads, causal=False) if isinstance(relative, Relative) else None
        )
        self.distances = (
            DistanceTable(relative, config.hidden_size, config.norm_eps)
            if isinstance(relative, Disentangled)
            else None
        )
        self.rotaries = nn.ModuleList(RotaryEmbedding(one, config.head_size) for one in config.rotaries)
        self._config = config

    def look(self, packing: Packing, mixing: Mixing | None) -> Iterator[EncoderContext]:
        """A context for each layer."""
        config = self._config
        plans = [plan(packing, sight) for sight in self._kinds()]
        rotations = [rotary(packing.positions) for rotary in self.rotaries] or [None]
        distances = None if self.distances is None else self.distances(packing)
        local = config.local.layers if config.local else frozenset()
        for layer in range(config.layers):
            kind = -1 if layer in local else 0
            yield EncoderContext(
                plan=plans[kind], rotation=rotations[kind], distances=distances, mixing=mixing
            )

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        config = self._config
        return config.head_size**-0.5 if config.scale is None else config.scale

    def _kinds(self) -> list[Sight]:
        """Of the layers that see everything, then of the local ones, if there are any."""
        config = self._config
        windows = [None, config.local.window] if config.local else [None]
        return [Sight(scale=self.scale, window=window, bias=self.bias) for window in windows]


def _embeddings(config: EncoderConfig) -> Embeddings | FactorisedEmbeddings:
    if config.embedding_size is None:
        return Embeddings(config, config.positions, config.segments)
    return FactorisedEmbeddings(config, config.positions, config.segments, config.embedding_size)


def _blocks(config: EncoderConfig) -> nn.ModuleList:
    """Of each layer; with sharing, of each group those that it runs in turn."""
    if config.sharing is not None:
        sharing = config.sharing
        return nn.ModuleList(_run(config, sharing) for _ in range(sharing.groups))
    blocks = nn.ModuleList(_block(config) for _ in range(config.layers))
    if not config.first_norm:
        blocks[0].attention_norm = nn.Identity()
    return blocks


def _run(config: EncoderConfig, sharing: Sharing) -> nn.ModuleList:
    return nn.ModuleList(_block(config) for _ in range(sharing.blocks))


def _block(config: EncoderConfig) -> Block:
    if isinstance(config.relative, Disentangled):
        return BLOCKS[config.residual](config, DisentangledAttention(config, config.relative))
    return BLOCKS[config.residual](config, SelfAttention(config))
