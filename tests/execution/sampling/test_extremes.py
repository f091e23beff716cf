"""No parameter, however extreme, brings an exception, a NaN, or an impossible token."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.execution.sampling import Drawn, Row, sample
from server.request import Dry, Mirostat, Sampling, Stage

VOCABULARY = 300
positive = st.sampled_from([5e-324, 1e-300, 1e-30, 1e-6, 1.0, 1e6, 1e30, 1e300, 1.7e308])
any_size = positive | positive.map(lambda value: -value) | st.just(0.0)
share = st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 0.5, 1 - 2**-53, 1.0])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": positive | st.just(0.0),
    "dynatemp_range": positive | st.just(0.0),
    "dynatemp_exponent": any_size,
    "top_n_sigma": st.none() | positive | st.just(0.0),
    "top_k": st.none() | st.sampled_from([1, 2, 255, 256, 257, 10**9]),
    "typical_p": share,
    "top_p": share,
    "min_p": share,
    "epsilon_cutoff": share,
    "eta_cutoff": share,
    "xtc_probability": share,
    "xtc_threshold": share,
    "mirostat": st.none() | st.builds(Mirostat, tau=positive | st.just(0.0), eta=positive),
    "repetition_penalty": positive,
    "presence_penalty": any_size,
    "frequency_penalty": any_size,
    "penalty_window": st.none() | st.sampled_from([0, 1, 10**9]),
    "no_repeat_ngram": st.sampled_from([0, 1, 2, 10**9]),
    "dry": st.none()
    | st.builds(Dry, multiplier=any_size, base=positive, allowed_length=st.sampled_from([0, 1, 10**9])),
    "logit_bias": st.lists(st.tuples(st.integers(-2, 400), any_size | st.just(-math.inf)), max_size=3).map(
        tuple
    ),
    "bad_words": st.just(((), (1,), (1, 1), (-1,), (999,))),
    "allowed_tokens": st.sampled_from([None, (), (5,), (-3, 1000)]),
    "min_new_tokens": st.sampled_from([0, 10**9]),
    "order": st.lists(st.sampled_from(Stage), max_size=14).map(tuple),
}
LOGITS = {
    "random": torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0)),
    "equal": torch.zeros(1, VOCABULARY),
    "huge": torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 1e30,
    "one": torch.full((1, VOCABULARY), -3e38).index_fill_(1, torch.tensor([7]), 3e38),
    "banned": torch.full((1, VOCABULARY), -math.inf).index_fill_(1, torch.tensor([7, 9]), 1.0),
}


@pytest.mark.parametrize("logits", LOGITS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_extreme_parameters_give_a_token(logits: str, data: st.DataObject) -> None:
    names = data.draw(st.frozensets(st.sampled_from(sorted(FIELDS)), max_size=12))
    sampling = data.draw(st.builds(Sampling, **{name: FIELDS[name] for name in sorted(names)}))
    drawn = draw(LOGITS[logits], sampling)
    assert 0 <= drawn.scored.token < VOCABULARY
    assert LOGITS[logits][0, drawn.scored.token] > -math.inf
    if drawn.surprise is not None:
        assert math.isfinite(drawn.surprise)
        assert 0 <= draw(LOGITS[logits], sampling, drawn.surprise).scored.token < VOCABULARY


def draw(logits: torch.Tensor, sampling: Sampling, surprise: float | None = None) -> Drawn:
    row = Row(sampling=sampling, tokens=[1, 1, 1, 2, 1, 1], prompt_length=2, surprise=surprise)
    return sample(logits, [row])[0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_model_that_breaks_down_hurts_no_neighbour(value: float) -> None:
    """What it yields means nothing; but it is a token, and the others get theirs."""
    sampling = Sampling(typical_p=0.5, xtc_probability=1.0, mirostat=None, top_n_sigma=1.0)
    row = Row(sampling=sampling, tokens=[1])
    good = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(2))
    broken = torch.full((1, VOCABULARY), value)
    drawn = sample(torch.cat([broken, good]), [row, row])
    assert 0 <= drawn[0].scored.token < VOCABULARY
    assert drawn[1] == sample(good, [row])[0]
    one = good.clone()
    one[0, 3] = value
    assert 0 <= sample(one, [row])[0].scored.token < VOCABULARY
