"""What the model thought of tokens: two numbers a row, and the few largest without sorting it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.execution import scores
from server.execution.scores import largest, leaders, log_masses, most_probable, peaks
from server.scheduling.plan import Scored

VOCABULARIES = (1, 7, 1000, 30522, 49152, 50257)


def score(logits: torch.Tensor, tokens: list[int], alternatives: int) -> list[Scored]:
    return scores.score(logits, np.array(tokens), peaks(logits), [alternatives] * len(tokens))


def rows(count: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, vocabulary, generator=torch.Generator().manual_seed(seed)) * 4


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_rows_mass_has_the_same_bits_alone_and_in_any_company(vocabulary: int, threads: int) -> None:
    logits, before = rows(33, vocabulary), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = log_masses(logits, largest(logits))
        alone = [log_masses(row[None], largest(row[None]))[0] for row in logits]
        turned = logits.flip(0)
        assert together.tolist() == alone == log_masses(turned, largest(turned))[::-1].tolist()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_scores_are_the_log_softmax(vocabulary: int) -> None:
    logits = rows(5, vocabulary)
    tokens = [i * vocabulary // 5 for i in range(5)]
    expected = logits.double().log_softmax(-1)
    best = expected.topk(min(3, vocabulary))
    for i, one in enumerate(score(logits, tokens, 3)):
        assert one.logprob == pytest.approx(float(expected[i, tokens[i]]), abs=1e-5)
        assert [token for token, _ in one.alternatives] == best.indices[i].tolist()
        assert [each for _, each in one.alternatives] == pytest.approx(best.values[i].tolist(), abs=1e-5)


def test_a_token_among_the_alternatives_has_one_log_probability() -> None:
    logits = rows(4, 1000)
    best = largest(logits).tolist()
    assert [one.alternatives[0] for one in score(logits, best, 2)] == [
        (one.token, one.logprob) for one in score(logits, best, 0)
    ]


def test_of_equals_the_first_is_the_largest() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [math.nan, 1.0, math.nan], [-math.inf] * 3])
    assert largest(logits).tolist() == [1, 0, 0] == logits.argmax(-1).tolist()


def test_a_row_without_a_softmax_has_no_mass() -> None:
    logits = torch.tensor([[0.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf], [-math.inf, 3.0]])
    masses = log_masses(logits, largest(logits))
    assert np.isnan(masses).tolist() == [True, True, True, False]
    assert masses[3] == 0.0


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 3000),
    count=st.integers(1, 300),
    steps=st.sampled_from([1, 4, 1000]),
    banned=st.floats(0, 1),
    seed=st.integers(0, 1000),
    falling=st.booleans(),
)
def test_leaders_are_how_a_sorted_row_begins(
    size: int, count: int, steps: int, banned: float, seed: int, falling: bool
) -> None:
    """With equals, as in bfloat16; with bans; and sorted, so that a few blocks have all of them."""
    chance = np.random.default_rng(seed)
    row = (chance.standard_normal(size) * steps).round().astype(np.float32)
    row[chance.random(size) < banned] = -np.inf
    if falling:
        row = -np.sort(-row)
    possible = np.flatnonzero(row > -np.inf)
    expected = possible[np.lexsort((possible, -row[possible]))]
    found = leaders(row, count)
    assert len(found) >= min(count, len(possible))
    assert found.tolist() == expected[: len(found)].tolist()


def test_leaders_are_few() -> None:
    """Else nothing would be won."""
    assert all(len(leaders(row.numpy(), 256)) < 400 for row in rows(20, 49152))


def test_most_probable_of_nothing_is_nothing() -> None:
    assert most_probable(rows(2, 9), 0) == [(), ()]
    assert most_probable(torch.full((1, 9), -math.inf), 3) == [()]
