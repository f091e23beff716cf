"""What a sampler is told of rows of logits: as PyTorch has it, and each row by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.native.library import Library
from models.native.scores import Surveyed, survey

MOST = 256
VOCABULARIES = (1, 7, 63, 1000, 4097, 50257)


def rows(count: int, vocabulary: int) -> Tensor:
    return torch.randn(count, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 4


def ask(library: Library, logits: Tensor, *places: int, divisor: float = 1.0, most: int = MOST) -> Surveyed:
    chosen = places or range(len(logits))
    return survey(library, logits, chosen, [divisor] * len(chosen), most)


@pytest.mark.parametrize("divisor", [1.0, 0.8, 1e-6, 1e30])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_row_is_as_pytorch_has_it(library: Library, vocabulary: int, divisor: float) -> None:
    logits = rows(5, vocabulary)
    found, divided = ask(library, logits, divisor=divisor), logits / torch.tensor(divisor)
    best = divided.double().max(dim=-1)
    masses = divided.double().logsumexp(dim=-1) - best.values
    assert found.best.tolist() == divided.numpy().argmax(-1).tolist()
    assert found.masses.tolist() == pytest.approx(masses.tolist(), rel=1e-6, abs=1e-6)
    for i, row in enumerate(divided.numpy()):
        falling = (-row).argsort(kind="stable")[:MOST]
        count = found.leaders.counts[i]
        assert found.leaders.tokens[i, :count].tolist() == falling.tolist()
        assert found.leaders.logits[i, :count].tolist() == row[falling].tolist()


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_row_has_the_same_bits_alone_and_in_any_company(library: Library, vocabulary: int) -> None:
    logits = rows(33, vocabulary)
    together = ask(library, logits, divisor=0.7)
    for i in range(len(logits)):
        alone = ask(library, logits, i, divisor=0.7)
        assert alone.masses[0] == together.masses[i]
        assert alone.best[0] == together.best[i]
        assert np.array_equal(alone.leaders.tokens[0], together.leaders.tokens[i])


def test_of_equals_the_first_comes_first(library: Library) -> None:
    """As with the logits of a model in bfloat16; zero and minus zero are equal."""
    logits = (rows(4, 3000) / 4).round()
    logits[0] = torch.tensor([0.0, -0.0] * 1500)
    found = ask(library, logits)
    for i, row in enumerate(logits.numpy()):
        assert found.leaders.tokens[i].tolist() == (-row).argsort(kind="stable")[:MOST].tolist()
    assert found.best.tolist() == logits.numpy().argmax(-1).tolist()


def test_what_is_banned_never_leads(library: Library) -> None:
    logits = torch.full((2, 3000), -math.inf)
    logits[0, 2999] = logits[1, 1700] = logits[1, 5] = -8.0
    found = ask(library, logits)
    assert found.leaders.counts.tolist() == [1, 2]
    assert [found.leaders.tokens[0, 0], *found.leaders.tokens[1, :2]] == [2999, 5, 1700]
    assert found.masses.tolist() == pytest.approx([0.0, math.log(2)], abs=1e-7)


def test_a_row_without_a_softmax_has_no_mass_and_no_leaders(library: Library) -> None:
    logits = torch.tensor([[0.0, math.nan, math.nan], [0.0, math.inf, 1.0], [-math.inf] * 3, [0.0, 1.0, 2.0]])
    found = ask(library, logits)
    assert np.isnan(found.masses).tolist() == [True, True, True, False]
    assert found.leaders.counts.tolist() == [0, 0, 0, 3]
    assert found.best.tolist() == [1, 1, 0, 2] == logits.numpy().argmax(-1).tolist()


def test_rows_may_lie_apart_and_be_left_out(library: Library) -> None:
    wide = rows(6, 1000)
    narrow = wide[:, :900]
    found = ask(library, narrow, 4, 1)
    assert found.masses.tolist() == ask(library, narrow[[4, 1]].contiguous()).masses.tolist()
    assert found.best.tolist() == narrow.numpy().argmax(-1)[[4, 1]].tolist()


def test_leaders_are_looked_for_only_where_they_are_wanted(library: Library) -> None:
    assert ask(library, rows(3, 100), most=0).leaders.tokens.shape == (3, 0)
