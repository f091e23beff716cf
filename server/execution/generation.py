"""Runs the steps of a decoder: tokens in, model, sampler, new tokens and scores out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.decoder import Decoder
from models.kv_cache import KVCache
from models.layers.lora import Mixing
from models.native.library import Library
from server.execution.beams import continue_beams
from server.execution.inputs import DecoderInputs, Readout, read_out
from server.execution.passes import DecoderPass, EncoderDecoder, EncoderDecoderPass, Pass
from server.execution.sampling import TORCH, Drawn, NativeSurveyor, Row, Surveyor, sample
from server.execution.scores import score
from server.scheduling.plan import Continuation, DecodeStep, Results, Sampled, Scored, Step

SCORED_ROWS = 32  # of prompts, at a time: each has the whole vocabulary's logits


class Matcher(Protocol):
    """Follows the text of one sequence through its grammar. The real one is `grammars.matcher.Matcher`."""

    @property
    def failure(self) -> str | None: ...
    def allowed(self) -> Tensor: ...
    def advance(self, token: int) -> None: ...


class DecoderRunner:
    """A decoder, or an encoder-decoder, and the cache that its sequences' block numbers stand for."""

    def __init__(
        self,
        model: Decoder | EncoderDecoder,
        cache: KVCache,
        device: torch.device,
        *,
        kernels: Library | None = None,
    ) -> None:
        """`kernels`: those that look at logits; None: PyTorch does."""
        self._pass: Pass = (
            DecoderPass(model, cache)
            if isinstance(model, Decoder)
            else EncoderDecoderPass(model, cache, device)
        )
        self._cache = cache
        self._device = device
        self._surveyor: Surveyor = TORCH if kernels is None else NativeSurveyor(kernels)
        self._matchers = dict[int, Matcher]()

    def constrain(self, id_: int, matcher: Matcher) -> None:
        """From now on the sequence says only what its grammar allows."""
        self._matchers[id_] = matcher

    def forget(self, id_: int) -> None:
        """The sequence has ended, or never began: no error."""
        self._matchers.pop(id_, None)

    def run(self, step: Step) -> Results:
        assert isinstance(step, DecodeStep)
        inputs = DecoderInputs.build(step, block_size=self._cache.block_size, device=self._device)
        self._cache.copy_blocks([pair for piece in step.slices for pair in piece.copies])
        hidden = self._pass.compute(step, inputs)
        readouts = read_out(step)
        sampling = [one for one in readouts if one.sampled]
        return Results(
            sampled=self._sample(hidden, [one for one in sampling if one.piece.sequence.beams is None]),
            continued=self._branch(hidden, [one for one in sampling if one.piece.sequence.beams]),
            prompt={one.piece.sequence.id: self._score(hidden, one) for one in readouts if one.prompt},
        )

    def _sample(self, hidden: Tensor, readouts: Sequence[Readout]) -> dict[int, Sampled]:
        """Every place of a draft is sampled as if the draft were right up to there."""
        if not readouts:
            return {}
        rows = [row for one in readouts for row in self._rows(one)]
        logits = self._logits(hidden, [(one, one.sampled) for one in readouts])
        drawn = iter(sample(logits, rows, self._surveyor))
        return {
            one.piece.sequence.id: self._accept(one, [next(drawn) for _ in one.sampled]) for one in readouts
        }

    def _branch(self, hidden: Tensor, readouts: Sequence[Readout]) -> dict[int, tuple[Continuation, ...]]:
        if not readouts:
            return {}
        logits = self._logits(hidden, [(one, one.sampled) for one in readouts])
        return continue_beams(logits, [one.piece for one in readouts])

    def _rows(self, readout: Readout) -> Iterator[Row]:
        sequence, draft = readout.piece.sequence, readout.piece.draft
        matcher = self._matchers.get(sequence.id)
        for drafted in range(len(draft) + 1):
            yield Row(
                sampling=sequence.sampling,
                tokens=[*sequence.tokens, *draft[:drafted]] if drafted else sequence.tokens,
                prompt_length=sequence.prompt_length,
                max_new_tokens=sequence.max_new_tokens,
                stop_tokens=sequence.stop_tokens,
                alternatives=sequence.alternatives,
                surprise=sequence.surprise,
                allowed=None if matcher is None else matcher.allowed(),
            )

    def _accept(self, readout: Readout, drawn: Sequence[Drawn]) -> Sampled:
        """The tokens up to the first that the draft did not foresee: all were sampled from the true text.

        That makes drafts exact (cf. Leviathan et al. 2023, arXiv 2211.17192): a place has one random number,
        so it is the token that would have been sampled without a draft.
        """
        stands = 1
        for guess, one in zip(readout.piece.draft, drawn, strict=False):
            if one.scored.token != guess:
                break
            stands += 1
        matcher = self._matchers.get(readout.piece.sequence.id)
        if matcher is not None:
            matcher.advance(drawn[0].scored.token)  # a constrained sequence has no drafts
        return Sampled(
            tuple(one.scored for one in drawn[:stands]),
            surprise=drawn[stands - 1].surprise,
            failure=None if matcher is None else matcher.failure,
        )

    def _score(self, hidden: Tensor, readout: Readout) -> tuple[Scored, ...]:
        alternatives = readout.piece.sequence.prompt_alternatives or 0
        scored = list[Scored]()
        for first in range(0, len(readout.prompt), SCORED_ROWS):
            some = slice(first, first + SCORED_ROWS)
            logits = self._logits(hidden, [(readout, readout.prompt[some])])
            tokens = np.array(readout.scored[some], dtype=np.int64)
            scored += score(logits, tokens, self._surveyor.peaks(logits), [alternatives] * len(tokens))
        return tuple(scored)

    def _logits(self, hidden: Tensor, wanted: Sequence[tuple[Readout, range]]) -> Tensor:
        """Of some rows of hidden [T, hidden], laid end to end: of each one at most, in their order."""
        rows = [row for _, some in wanted for row in some]
        if rows != list(range(len(hidden))):  # all of them, in a step without prompts
            hidden = hidden.index_select(0, torch.tensor(rows, device=self._device))
        runs = [(readout.piece.sequence.lora, len(some)) for readout, some in wanted]
        return self._pass.logits(hidden, Mixing.of(runs, self._device))
