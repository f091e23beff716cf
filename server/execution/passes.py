"""How a step goes through its model: a decoder by itself, or behind the encoder of new sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from models.decoder import Decoder
from models.kv_cache import KVCache
from models.layers.lora import Mixing
from models.ops.paging import Paging, Sources
from server.execution.inputs import DecoderInputs
from server.scheduling.plan import DecodeStep, Slice


class EncoderDecoder(Protocol):
    """Whose decoder attends to a source. The real one is `models.seq2seq.Seq2Seq`."""

    def encode(
        self, tokens: Tensor, lengths: Sequence[int], tables: Sequence[Sequence[int]], cache: KVCache
    ) -> None:
        """Encode sources laid end to end, `tokens` [S]; what the decoder attends to of each is written to the
        blocks of its table."""

    def __call__(
        self, tokens: Tensor, positions: Tensor, paging: Paging, cache: KVCache, sources: Sources
    ) -> Tensor:
        """tokens [T] and their positions [T] -> hidden [T, hidden]."""

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [R, hidden] -> logits [R, vocab], float32."""


class Pass(Protocol):
    """A model and its cache: what a runner does with a step's tokens."""

    def compute(self, step: DecodeStep, inputs: DecoderInputs) -> Tensor:
        """The step's tokens -> hidden [T, hidden]; their keys and values are in the cache afterwards."""

    def logits(self, hidden: Tensor, mixing: Mixing | None) -> Tensor:
        """hidden [R, hidden] -> logits [R, vocab], float32. `mixing`: which rows run with which adapter."""


class DecoderPass:
    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        self._decoder = decoder
        self._cache = cache

    def compute(self, step: DecodeStep, inputs: DecoderInputs) -> Tensor:
        return self._decoder(
            inputs.tokens, inputs.positions, inputs.paging, self._cache, mixing=inputs.mixing
        )

    def logits(self, hidden: Tensor, mixing: Mixing | None) -> Tensor:
        return self._decoder.logits(hidden, mixing)


class EncoderDecoderPass:
    """Sources of sequences that have just got their seats are one packed batch of the encoder."""

    def __init__(self, model: EncoderDecoder, cache: KVCache, device: torch.device) -> None:
        self._model = model
        self._cache = cache
        self._device = device

    def compute(self, step: DecodeStep, inputs: DecoderInputs) -> Tensor:
        new = [piece for piece in step.slices if piece.encodes]
        if new:
            self._encode(new)
        sequences = [piece.sequence for piece in step.slices]
        sources = Sources(
            [sequence.memory for sequence in sequences],
            [len(sequence.source) for sequence in sequences],
            [piece.count * piece.width for piece in step.slices],
            self._cache.block_size,
            self._device,
        )
        return self._model(inputs.tokens, inputs.positions, inputs.paging, self._cache, sources)

    def logits(self, hidden: Tensor, mixing: Mixing | None) -> Tensor:
        assert mixing is None, "encoder-decoders have no adapters"
        return self._model.logits(hidden)

    def _encode(self, new: Sequence[Slice]) -> None:
        tokens = [token for piece in new for token in piece.sequence.source]
        self._model.encode(
            torch.tensor(tokens, device=self._device),
            [len(piece.sequence.source) for piece in new],
            [piece.sequence.memory for piece in new],
            self._cache,
        )
