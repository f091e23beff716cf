"""Whether this machine's kernels keep a token's bits whatever is computed beside it: found out by trying.

MKL and oneDNN choose kernels by processor, number of threads and environment; no list of names could tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import cache

import torch
from torch import Tensor

from models.config import Activation, Config, DecoderConfig, EncoderConfig, Head, Mlp, Norm, Seq2SeqConfig
from models.decoder import Decoder
from models.filling import materialize
from models.kv_cache import KVCache
from models.native.library import Library
from models.native.quantise import Quantise
from models.ops.paging import Paging
from models.positions import Alibi, Relative, Rotary
from models.target import Target

_CPU = torch.device("cpu")
_TEXTS = 3
_BLOCK_SIZE, _BLOCKS = 16, 10  # of each text
_CONFIG = DecoderConfig(
    architecture="trial",
    vocab_size=509,  # a multiple of no tile
    hidden_size=192,
    layers=1,
    heads=3,
    kv_heads=1,
    head_dim=64,
    mlp_size=1536,  # long sums: some kernels cut them in another way for few rows
    context_length=_BLOCK_SIZE * _BLOCKS,
    norm=Norm.RMS,
    norm_eps=1e-5,
    mlp=Mlp.GATED,
    activation=Activation.SILU,
    positions=Rotary(),
    head=Head.TIED,
)


class Scores(Enum):
    """What is done to the scores of attention: each has kernels of its own, so each is tried by itself."""

    PLAIN = "plain"
    CAPPED = "capped"
    BIASED = "biased"  # by a float32 mask, be the rest bfloat16


_CONFIGS = {
    Scores.PLAIN: _CONFIG,
    Scores.CAPPED: replace(_CONFIG, score_cap=2.0),
    Scores.BIASED: replace(_CONFIG, positions=Alibi()),
}

# A plan has steps; a step says how many tokens of which text are computed. Text 0 is the one looked at.
_Plan = Sequence[Mapping[int, int]]
_ALONE: _Plan = [{0: 150}]
_IN_PIECES: _Plan = [{0: count} for count in (1, 2, 5, 62, 80)]
_AMONG_OTHERS: _Plan = [{1: 7, 0: 129, 2: 65}, {0: 1, 1: 1}, {2: 1, 0: 1, 1: 30}, {1: 3, 0: 18}, {0: 1, 2: 1}]


def scores_of(config: Config) -> Scores:
    """What that model does to its scores; of an encoder-decoder both halves do alike."""
    if isinstance(config, Seq2SeqConfig):
        return scores_of(config.decoder)
    if isinstance(config, EncoderConfig):
        return Scores.PLAIN if config.relative is None else Scores.BIASED
    if config.score_cap is not None:
        return Scores.CAPPED
    return Scores.BIASED if isinstance(config.positions, Alibi | Relative) else Scores.PLAIN


@cache
def keeps_its_bits(
    dtype: torch.dtype,
    scores: Scores = Scores.PLAIN,
    kernels: Library | None = None,
    quantise: Quantise | None = None,
) -> bool:
    """Compute a text on the CPU at once, in pieces, and among others: True where every logit is the same.

    The decoder has one layer, and is prepared as those that are loaded; 50 ms, more at first use. False is
    proof. True is evidence: another shape of weights might still meet a kernel that this one does not.
    """
    decoder = _decoder(_CONFIGS[scores], dtype, kernels, quantise)
    alone, *others = (_Trial(decoder, dtype).run(plan) for plan in (_ALONE, _IN_PIECES, _AMONG_OTHERS))
    return all(torch.equal(alone, other) for other in others)


class _Trial:
    """Texts of one decoder. Each owns the blocks that follow from its number."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        self._decoder = decoder
        self._computed = [0] * _TEXTS
        self._cache = KVCache(
            _CONFIG,
            num_blocks=_TEXTS * _BLOCKS,
            block_size=_BLOCK_SIZE,
            device=_CPU,
            dtype=dtype,
            for_kernels=decoder.program is not None,
        )

    @torch.inference_mode()
    def run(self, plan: _Plan) -> Tensor:
        """Logits of every token of text 0, in order: [tokens, vocab]."""
        return torch.cat([self._decoder.logits(self._advance(step)) for step in plan])

    def _advance(self, step: Mapping[int, int]) -> Tensor:
        """Hidden states of text 0: [its tokens, hidden]."""
        starts = [self._computed[text] for text in step]
        positions = [torch.arange(count) + start for start, count in zip(starts, step.values(), strict=True)]
        tokens = [
            (at * 211 + 17 * text) % _CONFIG.vocab_size for text, at in zip(step, positions, strict=True)
        ]
        tables = [range(text * _BLOCKS, (text + 1) * _BLOCKS) for text in step]
        paging = Paging(tables, starts, list(step.values()), _BLOCK_SIZE, _CPU)
        hidden = self._decoder(torch.cat(tokens), torch.cat(positions), paging, self._cache)
        for text, count in step.items():
            self._computed[text] += count
        return hidden.split_with_sizes(list(step.values()))[list(step).index(0)]


def _decoder(
    config: DecoderConfig, dtype: torch.dtype, kernels: Library | None, quantise: Quantise | None
) -> Decoder:
    """Random weights, the same each time; the process's own random numbers are left alone."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        decoder = Decoder(config)
    materialize(decoder, _CPU, dtype)
    for parameter in decoder.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    target = Target(device=_CPU, dtype=dtype, packed=True, kernels=kernels, quantise=quantise)
    target.finish(decoder)
    return decoder
