"""The samplers that transformers has leave the same logits as its own do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as theirs

from server.execution.sampling import Row
from server.execution.sampling.bans import restrict
from server.execution.sampling.ranking import everything
from server.execution.sampling.stages import asked, change_row, follow, split
from server.execution.sampling.whole import Whole
from server.request import Sampling

TEXT = [3, 1, 2, 3, 1, 7, 1, 2, 5, 3, 1]
Process = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

PAIRS: dict[str, tuple[Sampling, Process]] = {
    "temperature": (Sampling(temperature=0.7), theirs.TemperatureLogitsWarper(0.7)),
    "top_k": (Sampling(top_k=9), theirs.TopKLogitsWarper(9)),
    "top_p": (Sampling(top_p=0.83), theirs.TopPLogitsWarper(0.83)),
    "min_p": (Sampling(min_p=0.07), theirs.MinPLogitsWarper(0.07)),
    "typical_p": (Sampling(typical_p=0.37), theirs.TypicalLogitsWarper(0.37)),
    "epsilon": (Sampling(epsilon_cutoff=0.013), theirs.EpsilonLogitsWarper(0.013)),
    "eta": (Sampling(eta_cutoff=0.11), theirs.EtaLogitsWarper(0.11)),
    "repetition": (Sampling(repetition_penalty=1.3), theirs.RepetitionPenaltyLogitsProcessor(1.3)),
    "no_repeat_ngram": (Sampling(no_repeat_ngram=2), theirs.NoRepeatNGramLogitsProcessor(2)),
    "bad_words": (
        Sampling(bad_words=((4,), (3, 1, 9), (1, 6), (2, 8))),
        theirs.NoBadWordsLogitsProcessor([[4], [3, 1, 9], [1, 6], [2, 8]]),
    ),
}


def ours(scores: torch.Tensor, sampling: Sampling) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The logits [vocabulary] that are left, minus infinity for the others."""
    row = Row(sampling=sampling, tokens=TEXT)
    changes, narrows = split(asked(sampling))
    restrict(scores, row)
    for stage in changes:
        change_row(scores, row, stage)
    kept = follow(everything(Whole.of(scores)), row, narrows)
    logits = np.full(len(scores), -np.inf)
    logits[kept.tokens] = kept.logits
    return logits


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", PAIRS)
def test_the_same_logits_are_left(name: str, seed: int) -> None:
    sampling, process = PAIRS[name]
    scores = torch.randn(60, generator=torch.Generator().manual_seed(seed)) * 1.5
    expected = process(torch.tensor([TEXT]), scores.clone()[None])[0]
    np.testing.assert_allclose(ours(scores, sampling), expected.double().numpy(), rtol=1e-6)
