"""Every sampler, alone and with any others in any order, against its plain definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.execution.sampling import Drawn, Row, ranking, sample, sampler, truncation
from server.execution.sampling.dry import dry_penalty
from server.request import Dry, Mirostat, Sampling, Stage
from tests.execution.sampling.reference import dried, final_logits, probabilities

VOCABULARY = 24


def text(seed: int) -> list[int]:
    """Tokens that repeat themselves a lot."""
    return np.random.default_rng(seed).integers(0, 6, size=30).tolist()  # type: ignore[no-any-return]


def random_logits(seed: int, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, VOCABULARY, generator=generator) * spread


tokens = st.integers(0, VOCABULARY - 1)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    "dynatemp_range": st.sampled_from([0.0, 0.2, 1.5]),
    "dynatemp_exponent": st.sampled_from([0.5, 1.0, 2.0]),
    "top_n_sigma": st.none() | st.floats(0.3, 3),
    "top_k": st.none() | st.integers(1, VOCABULARY + 2),
    "typical_p": st.floats(0.05, 1),
    "top_p": st.floats(0.05, 1),
    "min_p": st.just(0.0) | st.floats(0.001, 0.9),
    "epsilon_cutoff": st.just(0.0) | st.floats(0.0001, 0.3),
    "eta_cutoff": st.just(0.0) | st.floats(0.0001, 0.3),
    "xtc_probability": st.sampled_from([0.0, 0.5, 1.0]),
    "xtc_threshold": st.floats(0.01, 0.4),
    "mirostat": st.builds(Mirostat, tau=st.floats(0.1, 6), eta=st.floats(0, 1)),
    "repetition_penalty": st.floats(0.5, 2),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-1, 1),
    "penalty_window": st.none() | st.integers(0, 40),
    "no_repeat_ngram": st.integers(0, 4),
    "dry": st.builds(
        Dry,
        multiplier=st.floats(0.1, 2),
        base=st.floats(1, 2),
        allowed_length=st.integers(1, 4),
        window=st.none() | st.integers(0, 40),
        breakers=st.lists(st.integers(0, 6), max_size=2).map(tuple),
    ),
    "logit_bias": st.lists(
        st.tuples(tokens, st.floats(-5, 5) | st.just(-np.inf)), max_size=4, unique_by=lambda pair: pair[0]
    ).map(tuple),
    "bad_words": st.lists(
        st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple), max_size=3, unique=True
    ).map(tuple),
    "allowed_tokens": st.none() | st.lists(tokens, max_size=9).map(tuple),
    "min_new_tokens": st.sampled_from([0, 5, 25]),
}


NARROWING = sorted({stage.value for stage in Stage} & FIELDS.keys() | {"xtc_probability", "presence_penalty"})


def sampling_with(names: frozenset[str]) -> st.SearchStrategy[Sampling]:
    orders = st.permutations(tuple(Stage)).map(tuple) | st.just(tuple(Stage))
    return st.builds(Sampling, order=orders, **{name: FIELDS[name] for name in sorted(names)})


def draw(logits: torch.Tensor, row: Row, numbers: list[float], coin: float, size: int) -> list[Drawn]:
    """What `numbers` choose, looking at `size` candidates first."""
    rows = [replace(row, sampling=replace(row.sampling, seed=i)) for i in range(len(numbers))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "uniform", lambda seed, *_: numbers[seed])
        patch.setattr(truncation, "uniform", lambda *_: coin)
        patch.setattr(ranking, "CANDIDATES", size)
        return sample(logits.expand(len(rows), -1), rows)


def intervals(logits: NDArray[np.float64]) -> list[tuple[int, float, float]]:
    """(token, from, to) of the cumulative distribution in falling order; the widest only."""
    p = probabilities(logits)
    order = (-logits).argsort(kind="stable")
    ends = p[order].cumsum()
    return [(int(t), e - p[t], e) for t, e in zip(order, ends, strict=True) if p[t] > 1e-3]


def check(scores: torch.Tensor, row: Row, coin: float, size: int) -> None:
    """The numbers at both ends of each token's interval choose it, so the two distributions
    are equal."""
    expected = final_logits(scores[0].double().numpy(), row, coin)
    spans = intervals(expected)
    numbers = [start + share * (end - start) for _, start, end in spans for share in (0.03, 0.97)]
    drawn = draw(scores, row, numbers, coin, size)
    assert [one.scored.token for one in drawn] == [token for token, _, _ in spans for _ in range(2)]
    if row.sampling.mirostat is not None:
        check_bounds(probabilities(expected), row, drawn)


def check_bounds(p: NDArray[np.float64], row: Row, drawn: list[Drawn]) -> None:
    mirostat = row.sampling.mirostat
    assert mirostat is not None
    bound = 2 * mirostat.tau if row.surprise is None else row.surprise
    for one in drawn:
        error = -np.log2(p[one.scored.token]) - mirostat.tau
        assert one.surprise == pytest.approx(bound - mirostat.eta * error, abs=1e-4)


WITH_MORE = {
    "dynatemp_range": {"temperature", "dynatemp_exponent"},
    "xtc_probability": {"xtc_threshold"},
    "penalty_window": {"repetition_penalty", "presence_penalty", "frequency_penalty"},
}
SETTLED = {"dynatemp_exponent", "xtc_threshold"}  # by another field


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - SETTLED))
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_sampler_alone_equals_its_definition(name: str, data: st.DataObject) -> None:
    sampling = data.draw(sampling_with(frozenset({name} | WITH_MORE.get(name, set()))))
    check_any(data, sampling)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_samplers_in_any_company_and_order_equal_their_definitions(data: st.DataObject) -> None:
    names = data.draw(st.frozensets(st.sampled_from(sorted(FIELDS.keys() - {"mirostat"})), max_size=8))
    check_any(data, data.draw(sampling_with(names)))


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10_000), symbols=st.integers(1, 3), size=st.integers(0, 40), dry=FIELDS["dry"])
def test_dry_finds_the_longest_of_many_overlapping_copies(
    seed: int, symbols: int, size: int, dry: Dry
) -> None:
    text = np.random.default_rng(seed).integers(0, symbols, size=size).tolist()
    scores = torch.zeros(8)
    dry_penalty(Row(sampling=Sampling(dry=dry), tokens=text)).change_row(scores)
    np.testing.assert_allclose(scores.numpy(), dried(np.zeros(8), text, dry), rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_narrows_sees_what_is_left(data: st.DataObject) -> None:
    names = data.draw(st.frozensets(st.sampled_from(NARROWING), min_size=2, max_size=4))
    check_any(data, data.draw(sampling_with(names)))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_mirostat_stands_in_for_what_narrows(data: st.DataObject) -> None:
    names = data.draw(st.frozensets(st.sampled_from(sorted(FIELDS)), max_size=6))
    check_any(data, data.draw(sampling_with(names | {"mirostat"})))


def check_any(data: st.DataObject, sampling: Sampling) -> None:
    seed = data.draw(st.integers(0, 10_000))
    row = Row(
        sampling=sampling,
        tokens=text(seed),
        prompt_length=10,
        stop_tokens=frozenset({3, 7}),
        surprise=data.draw(st.none() | st.floats(0.5, 8)),
    )
    scores = random_logits(seed, data.draw(st.sampled_from([0.5, 2.0, 5.0])))
    check(
        scores, row, data.draw(st.sampled_from([0.2, 0.8])), data.draw(st.sampled_from([3, 12, VOCABULARY]))
    )
