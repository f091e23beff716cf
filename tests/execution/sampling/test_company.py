"""A row's result is its own: whoever stands beside it, and however many candidates are looked at first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.native.library import Library
from server.execution.sampling import TORCH, Drawn, NativeSurveyor, Row, Surveyor, ranking, sample
from server.request import Dry, Mirostat, Sampling, Stage

VOCABULARY = 700
LAST = (*(stage for stage in Stage if stage is not Stage.TEMPERATURE), Stage.TEMPERATURE)
KINDS = (
    Sampling(),
    Sampling(temperature=0.0),
    Sampling(temperature=0.0, repetition_penalty=1.3, bad_words=((3,),)),
    Sampling(temperature=0.7, top_p=0.9, top_k=50),
    Sampling(temperature=1.4, min_p=0.05, order=LAST),
    Sampling(temperature=1.4, order=LAST, xtc_probability=0.5, xtc_threshold=0.02),
    Sampling(dynatemp_range=0.6, top_n_sigma=1.0),
    Sampling(dynatemp_range=0.6, top_k=10, order=LAST),
    Sampling(typical_p=0.5),
    Sampling(typical_p=0.95, eta_cutoff=0.001, order=tuple(reversed(Stage))),
    Sampling(epsilon_cutoff=0.01, xtc_probability=1.0),
    Sampling(eta_cutoff=0.02, presence_penalty=0.5, frequency_penalty=0.1, penalty_window=20),
    Sampling(mirostat=Mirostat(tau=3.0)),
    Sampling(dry=Dry(multiplier=1.0), no_repeat_ngram=3),
    Sampling(top_k=20, repetition_penalty=1.5, order=tuple(reversed(Stage))),
    Sampling(logit_bias=((5, 4.0), (9, -np.inf)), allowed_tokens=tuple(range(0, 600, 7)), min_new_tokens=90),
    Sampling(temperature=0.0, mirostat=Mirostat()),
)


@pytest.fixture(scope="module", params=["torch", "native"])
def surveyor(request: pytest.FixtureRequest) -> Surveyor:
    return TORCH if request.param == "torch" else NativeSurveyor(request.getfixturevalue("kernels"))


def batch(seed: int, spread: float) -> tuple[torch.Tensor, list[Row]]:
    """Every kind of row, twice, at different places of a text."""
    chance = np.random.default_rng(seed)
    rows = [
        Row(
            sampling=replace(sampling, seed=int(chance.integers(2**62))),
            tokens=chance.integers(0, 12, size=size).tolist(),
            prompt_length=4,
            stop_tokens=frozenset({1}),
            alternatives=i % 4,
        )
        for size in (17, 60)
        for i, sampling in enumerate(KINDS)
    ]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(rows), VOCABULARY, generator=generator) * spread, rows


def looking_at(size: int, scores: torch.Tensor, rows: list[Row], surveyor: Surveyor) -> list[Drawn]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "CANDIDATES", size)
        return sample(scores, rows, surveyor)


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
def test_a_row_is_the_same_alone_and_in_any_company(spread: float, surveyor: Surveyor) -> None:
    scores, rows = batch(3, spread)
    together = sample(scores, rows, surveyor)
    alone = [sample(scores[i : i + 1], [row], surveyor)[0] for i, row in enumerate(rows)]
    assert together == alone
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    assert sample(scores[order], [rows[i] for i in order], surveyor) == [together[i] for i in order]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), spread=st.sampled_from([0.001, 1.0, 3.0, 8.0]), size=st.integers(1, 300))
def test_candidates_and_the_whole_vocabulary_agree(
    seed: int, spread: float, size: int, surveyor: Surveyor
) -> None:
    scores, rows = batch(seed, spread)
    assert looking_at(size, scores, rows, surveyor) == looking_at(VOCABULARY, scores, rows, surveyor)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 300))
def test_they_agree_where_many_are_equal(seed: int, size: int, surveyor: Surveyor) -> None:
    """As with the logits of a model in bfloat16."""
    scores, rows = batch(seed, 1.0)
    scores = (scores * 4).round() / 4
    assert looking_at(size, scores, rows, surveyor) == looking_at(VOCABULARY, scores, rows, surveyor)


def test_a_drafted_token_is_chosen_as_without_a_draft() -> None:
    """Several places of one text in one batch."""
    scores, rows = batch(8, 1.0)
    tokens = list(rows[-1].tokens)
    drafted = [replace(rows[3], tokens=tokens[:end]) for end in (10, 11, 12)]
    apart = [sample(scores[i : i + 1], [row])[0] for i, row in enumerate(drafted)]
    assert sample(scores[:3], drafted) == apart


def test_kernels_and_pytorch_choose_alike(kernels: Library) -> None:
    scores, rows = batch(6, 3.0)
    tokens = [one.scored.token for one in sample(scores, rows, NativeSurveyor(kernels))]
    assert tokens == [one.scored.token for one in sample(scores, rows, TORCH)]


def test_the_logits_are_left_alone(surveyor: Surveyor) -> None:
    scores, rows = batch(5, 1.0)
    before = scores.clone()
    sample(scores, rows, surveyor)
    assert torch.equal(scores, before)


def test_greedy_rows_leave_mirostats_bound_alone() -> None:
    row = Row(sampling=Sampling(temperature=0.0, mirostat=Mirostat()), tokens=[1], surprise=3.5)
    assert sample(torch.randn(1, 9), [row])[0].surprise == 3.5
