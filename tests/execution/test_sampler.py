"""The sampler against the definition of each parameter, and against itself in other company."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.execution.randomness import uniform
from server.execution.sampling import Row, candidates, sample
from server.request import Sampling

VOCABULARY = 1000


def logits(
    rows: int = 1, *, seed: int = 0, spread: float = 3.0, vocabulary: int = VOCABULARY
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=generator) * spread


def one(scores: torch.Tensor, sampling: Sampling, tokens: list[int] | None = None) -> int:
    return sample(scores, [Row(sampling=sampling, tokens=tokens or [1])])[0].scored.token


def chosen(scores: torch.Tensor, sampling: Sampling, draws: int = 400) -> set[int]:
    """Every token that `draws` seeds choose."""
    rows = [Row(sampling=replace(sampling, seed=seed), tokens=[1]) for seed in range(draws)]
    return {result.scored.token for result in sample(scores.expand(draws, -1), rows)}


def by_definition(scores: torch.Tensor, sampling: Sampling, tokens: list[int]) -> int:
    """The plain definition: sort everything, filter in order, renormalise, inverse CDF."""
    tempered = (scores / sampling.temperature)[0]
    order = tempered.sort(descending=True, stable=True).indices
    probabilities = tempered.log_softmax(-1)[order].double().exp().numpy().copy()
    if sampling.top_k is not None:
        probabilities[sampling.top_k :] = 0
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        probabilities[1:][probabilities.cumsum()[:-1] >= sampling.top_p] = 0
    if sampling.min_p:
        probabilities[probabilities < sampling.min_p * probabilities[0]] = 0
    cumulative = probabilities.cumsum() / probabilities.sum()
    return int(order[int((cumulative <= uniform(sampling.seed, 0, len(tokens))).sum())])


@settings(max_examples=150, deadline=None)
@given(
    temperature=st.floats(0.05, 3),
    top_k=st.none() | st.integers(1, VOCABULARY + 5),
    top_p=st.floats(0.05, 1),
    min_p=st.just(0.0) | st.floats(0.001, 0.5),
    seed=st.integers(0, 2**63 - 1),
    spread=st.sampled_from([0.0001, 1.0, 5.0]),
)
def test_every_choice_equals_the_definition(
    temperature: float, top_k: int | None, top_p: float, min_p: float, seed: int, spread: float
) -> None:
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    scores = logits(seed=seed % 97, spread=spread)
    assert one(scores, sampling) == by_definition(scores, sampling, [1])


def test_a_flat_distribution_is_decided_beyond_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = logits(spread=0.001)
    seeds = [Sampling(seed=seed) for seed in range(20)]
    by_candidates = [one(scores, sampling) for sampling in seeds]
    monkeypatch.setattr(candidates, "CANDIDATES", VOCABULARY)
    assert [one(scores, sampling) for sampling in seeds] == by_candidates
    best = set(scores[0].topk(256).indices.tolist())
    assert any(token not in best for token in by_candidates)


def test_a_row_is_not_changed_by_its_neighbours() -> None:
    scores = logits(17, seed=5)
    rows = [
        Row(sampling=Sampling(seed=i, temperature=0.2 * i, top_p=0.9), tokens=list(range(i + 1)))
        for i in range(17)
    ]
    together = sample(scores, rows)
    alone = [sample(scores[i : i + 1], [rows[i]])[0] for i in range(17)]
    assert together == alone


def test_temperature_zero_takes_the_largest() -> None:
    scores = logits()
    assert one(scores, Sampling(temperature=0.0)) == int(scores.argmax())


def test_top_k_leaves_k() -> None:
    scores = logits(spread=0.1)
    assert chosen(scores, Sampling(top_k=3)) == set(scores[0].topk(3).indices.tolist())


def test_top_p_leaves_the_smallest_set_that_reaches_it() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert chosen(scores, Sampling(top_p=0.6)) == {0, 1}


def test_min_p_is_relative_to_the_largest() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert chosen(scores, Sampling(min_p=0.25)) == {0, 1, 2}


def test_samples_follow_the_distribution() -> None:
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draws = 4000
    rows = [Row(sampling=Sampling(seed=seed), tokens=[1, 2, 3]) for seed in range(draws)]
    counts = np.bincount([s.scored.token for s in sample(weights.log().expand(draws, -1), rows)], minlength=4)
    expected = weights.numpy() * draws
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square, 3 degrees, p = 0.001


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    scores = torch.tensor([[2.0, 1.5, -1.0, -1.2]])
    assert one(scores, Sampling(temperature=0.0, repetition_penalty=2.0), [0]) == 1
    scores = torch.tensor([[-3.0, -3.0, -1.0, -1.2]])
    assert one(scores, Sampling(temperature=0.0, repetition_penalty=2.0), [2]) == 3


def test_a_penalty_next_to_zero_stays_a_number() -> None:
    likely = int(logits()[0].topk(2).indices[1])
    assert one(logits(), Sampling(repetition_penalty=1e-300, seed=3), [likely]) == likely


def test_the_logprob_is_the_models_own() -> None:
    scores = logits()
    result = sample(
        scores, [Row(sampling=Sampling(temperature=0.3, top_k=2, repetition_penalty=1.3), tokens=[5])]
    )[0]
    logprobs = scores[0].log_softmax(-1)
    assert result.scored.logprob == pytest.approx(float(logprobs[result.scored.token]), abs=1e-6)


def test_the_logits_are_left_alone() -> None:
    scores = logits()
    before = scores.clone()
    sample(scores, [Row(sampling=Sampling(repetition_penalty=1.5, temperature=0.5), tokens=[1, 2])])
    assert torch.equal(scores, before)


def test_uniform_is_a_function_of_seed_and_position() -> None:
    assert uniform(1, 0, 2) == uniform(1, 0, 2)
    draws = {uniform(seed, 0, position) for seed in range(30) for position in range(30)}
    assert len(draws) == 900
    assert all(0 <= draw < 1 for draw in draws)
    assert 0.45 < sum(draws) / 900 < 0.55
