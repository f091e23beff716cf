"""Runs the steps of an encoder: whole texts in, vectors and masked tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.encoder import Encoder
from models.heads import MaskedLM
from models.layers.lora import Mixing
from models.pooling import normalize
from models.sentence import Sentence
from server.request import EmbedWork, MaskWork
from server.scheduling.plan import Encoded, EncodeStep, Results, Step
from server.scheduling.sequence import Passage


class EncoderRunner:
    """An encoder: for embeddings, and for masked tokens if it has a head for them.

    The two may have weights of their own, so a step with both kinds of work is two passes.
    """

    def __init__(
        self, encoder: Encoder, masked_lm: MaskedLM | None, sentence: Sentence, device: torch.device
    ) -> None:
        self._encoder = encoder
        self._masked_lm = masked_lm
        self._sentence = sentence
        self._device = device

    def run(self, step: Step) -> Results:
        assert isinstance(step, EncodeStep)
        embeds, masks = list[_Embed](), list[_Mask]()
        for passage in step.passages:
            if isinstance(passage.work, EmbedWork):
                embeds.append((passage, passage.work))
            else:
                masks.append((passage, passage.work))
        return Results(encoded=(self._embed(embeds) if embeds else {}) | (self._fill(masks) if masks else {}))

    def _embed(self, batch: Sequence[_Embed]) -> dict[int, Encoded]:
        passages = [passage for passage, _ in batch]
        lengths = [passage.num_tokens for passage in passages]
        hidden = self._encoder(self._pack(passages), lengths, mixing=self._mix(passages))
        vectors = self._sentence(hidden, lengths).cpu()
        return {one.id: _vector(vector, work) for (one, work), vector in zip(batch, vectors, strict=True)}

    def _fill(self, batch: Sequence[_Mask]) -> dict[int, Encoded]:
        assert self._masked_lm is not None
        rows, start = list[int](), 0
        for passage, work in batch:
            rows += [start + position for position in work.positions]
            start += passage.num_tokens
        passages = [passage for passage, _ in batch]
        logits = self._masked_lm(
            self._pack(passages),
            [passage.num_tokens for passage in passages],
            torch.tensor(rows, device=self._device),
            mixing=self._mix(passages),
        )
        each = logits.softmax(dim=-1).split([len(work.positions) for _, work in batch])
        return {one.id: _masks(scores, work) for (one, work), scores in zip(batch, each, strict=True)}

    def _pack(self, passages: Sequence[Passage]) -> Tensor:
        return torch.tensor([token for one in passages for token in one.tokens], device=self._device)

    def _mix(self, passages: Sequence[Passage]) -> Mixing | None:
        """Which of their tokens run with which adapter."""
        return Mixing.of([(one.lora, one.num_tokens) for one in passages], self._device)


_Embed = tuple[Passage, EmbedWork]
_Mask = tuple[Passage, MaskWork]


def _vector(vector: Tensor, work: EmbedWork) -> Encoded:
    """Cut first, then scaled: a shortened embedding has unit length too (Matryoshka, arXiv 2205.13147)."""
    vector = vector[: work.dimensions]
    return Encoded(vector=tuple((normalize(vector[None])[0] if work.normalize else vector).tolist()))


def _masks(scores: Tensor, work: MaskWork) -> Encoded:
    """scores [masks, vocabulary] -> the best candidates of each mask, among the targets if there are any."""
    if work.targets is None:
        best = scores.topk(min(work.top_k, scores.shape[-1]), dim=-1)
        values, tokens = best.values, best.indices
    else:
        targets = torch.tensor(work.targets, device=scores.device)
        best = scores[:, targets].topk(min(work.top_k, len(targets)), dim=-1)
        values, tokens = best.values, targets[best.indices]
    pairs = zip(tokens.tolist(), values.tolist(), strict=True)
    return Encoded(masks=tuple(tuple(zip(ids, mask, strict=True)) for ids, mask in pairs))
