"""Sampled tokens follow the distribution that each sampler defines: chi-squared tests with fixed seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from server.execution.sampling import Row, sample
from server.request import Dry, Mirostat, Sampling, Stage
from tests.execution.sampling.reference import final_logits, probabilities

DRAWS = 2000
LOGITS = [2.0, 1.6, 1.5, 1.1, 0.9, 0.4, 0.1, -0.3, -0.8, -1.1, -1.7, -2.4]
TEXT = [1, 2, 3, 1, 2, 3, 4, 1, 2]
BACKWARDS = tuple(reversed(Stage))

SAMPLINGS = {
    "nothing": Sampling(),
    "cold": Sampling(temperature=0.6),
    "hot": Sampling(temperature=1.7),
    "dynamic temperature": Sampling(dynatemp_range=0.7, dynatemp_exponent=1.5),
    "top_n_sigma": Sampling(top_n_sigma=1.2),
    "top_k": Sampling(top_k=5),
    "typical_p": Sampling(typical_p=0.6),
    "top_p": Sampling(top_p=0.8),
    "min_p": Sampling(min_p=0.2),
    "epsilon_cutoff": Sampling(epsilon_cutoff=0.05),
    "eta_cutoff": Sampling(eta_cutoff=0.3),
    "xtc": Sampling(xtc_probability=0.6, xtc_threshold=0.1),
    "mirostat": Sampling(mirostat=Mirostat(tau=1.5)),
    "repetition": Sampling(repetition_penalty=1.8),
    "presence": Sampling(presence_penalty=1.0),
    "frequency": Sampling(frequency_penalty=0.4),
    "no_repeat_ngram": Sampling(no_repeat_ngram=3),
    "dry": Sampling(dry=Dry(multiplier=0.8)),
    "logit_bias": Sampling(logit_bias=((7, 2.0), (0, -np.inf))),
    "bad_words": Sampling(bad_words=((0,), (1, 2, 3))),
    "allowed_tokens": Sampling(allowed_tokens=(2, 5, 11)),
    "min_new_tokens": Sampling(min_new_tokens=20),
    "many": Sampling(temperature=1.5, top_p=0.9, min_p=0.1, presence_penalty=0.5, typical_p=0.9),
    "many, backwards": Sampling(temperature=1.5, top_k=8, top_p=0.9, presence_penalty=0.5, order=BACKWARDS),
}


def expected(row: Row) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """[vocabulary]: with XTC, of both sides of its coin."""
    logits = np.array(LOGITS, dtype=np.float64)
    excluding, plain = (probabilities(final_logits(logits, row, coin)) for coin in (0.0, 1.0))
    share = row.sampling.xtc_probability
    return share * excluding + (1 - share) * plain


def quantile(degrees: int) -> float:
    """What chi-squared exceeds once in a thousand times (Wilson and Hilferty 1931)."""
    return float(degrees * (1 - 2 / (9 * degrees) + 3.0902 * (2 / (9 * degrees)) ** 0.5) ** 3)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_tokens_follow_the_distribution(name: str) -> None:
    row = Row(sampling=SAMPLINGS[name], tokens=TEXT, prompt_length=3, stop_tokens=frozenset({0, 4}))
    rows = [replace(row, sampling=replace(row.sampling, seed=seed)) for seed in range(DRAWS)]
    drawn = sample(torch.tensor([LOGITS]).expand(DRAWS, -1), rows)
    counts = np.bincount([one.scored.token for one in drawn], minlength=len(LOGITS))
    wanted = expected(row) * DRAWS
    possible = wanted > 0
    assert counts[~possible].sum() == 0
    statistic = ((counts - wanted)[possible] ** 2 / wanted[possible]).sum()
    assert possible.sum() > 1
    assert statistic < quantile(int(possible.sum()) - 1)


def test_the_samples_of_one_seed_are_independent() -> None:
    row = Row(sampling=Sampling(seed=5), tokens=TEXT)
    rows = [replace(row, sampling=replace(row.sampling, sample=i)) for i in range(DRAWS)]
    drawn = sample(torch.zeros(DRAWS, 4), rows)
    counts = np.bincount([one.scored.token for one in drawn], minlength=4)
    assert ((counts - DRAWS / 4) ** 2 / (DRAWS / 4)).sum() < quantile(3)


def test_mirostat_keeps_the_surprise_near_its_target() -> None:
    scores = torch.tensor([LOGITS]) * 0.7
    row = Row(sampling=Sampling(mirostat=Mirostat(tau=2.0)), tokens=[])
    surprises = list[float]()
    for position in range(400):
        drawn = sample(scores, [replace(row, tokens=[0] * position)])[0]
        assert drawn.surprise is not None
        before = 4.0 if row.surprise is None else row.surprise
        surprises.append(2.0 - (drawn.surprise - before) / 0.1)
        row = replace(row, surprise=drawn.surprise)
    assert np.mean(surprises) == pytest.approx(2.0, abs=0.1)
