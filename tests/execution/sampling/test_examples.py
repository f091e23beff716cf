"""What each parameter does, in the smallest case that shows it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from server.execution.randomness import uniform
from server.execution.sampling import Row, ranking, sample
from server.execution.sampling.ranking import everything, falling
from server.execution.sampling.temperature import temperature
from server.execution.sampling.whole import Whole
from server.request import Dry, Sampling, Stage

FOUR = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def random_logits(*, seed: int = 0, spread: float = 3.0, vocabulary: int = 1000) -> torch.Tensor:
    return torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def one(scores: torch.Tensor, row: Row) -> int:
    return sample(scores, [row])[0].scored.token


def greedy(scores: torch.Tensor, tokens: list[int], *, prompt_length: int = 0, **parameters: Any) -> int:
    sampling = Sampling(temperature=0.0, **parameters)
    return one(scores, Row(sampling=sampling, tokens=tokens, prompt_length=prompt_length))


def chosen(scores: torch.Tensor, sampling: Sampling, draws: int = 300, **row: Any) -> set[int]:
    """Every token that `draws` seeds choose."""
    rows = [Row(sampling=replace(sampling, seed=seed), **{"tokens": [1], **row}) for seed in range(draws)]
    return {result.scored.token for result in sample(scores.expand(draws, -1), rows)}


def bits(*tokens: int, words: int) -> torch.Tensor:
    """A grammar's mask that allows `tokens`."""
    mask = [sum(1 << token % 32 for token in set(tokens) if token // 32 == word) for word in range(words)]
    return torch.tensor([word - (1 << 32) if word >= 1 << 31 else word for word in mask], dtype=torch.int32)


def test_temperature_zero_takes_the_largest_and_the_first_of_equals() -> None:
    scores = random_logits()
    assert greedy(scores, [1]) == int(scores.argmax())
    assert greedy(torch.tensor([[0.0, 2.0, 2.0]]), [0]) == 1
    assert greedy(torch.tensor([[0.0, 2.0, 2.0]]), [0], logit_bias=((0, 1.0),)) == 1


def test_no_stage_takes_the_largest_from_a_greedy_row() -> None:
    parameters: dict[str, Any] = {"xtc_probability": 1.0, "xtc_threshold": 0.1, "typical_p": 0.1}
    assert greedy(FOUR, [1], order=(Stage.XTC, Stage.TYPICAL_P, Stage.TEMPERATURE), **parameters) == 0


def test_top_k_leaves_k() -> None:
    scores = random_logits(spread=0.1)
    assert chosen(scores, Sampling(top_k=3)) == set(scores[0].topk(3).indices.tolist())


def test_top_p_leaves_the_smallest_set_that_reaches_it() -> None:
    assert chosen(FOUR, Sampling(top_p=0.6)) == {0, 1}


def test_min_p_is_relative_to_the_largest() -> None:
    assert chosen(FOUR, Sampling(min_p=0.25)) == {0, 1, 2}


def test_typical_p_may_leave_out_the_most_probable() -> None:
    scores = torch.tensor([[0.4, *[0.1] * 6]]).log()
    assert chosen(scores, Sampling(typical_p=0.5)) == {1, 2, 3, 4, 5, 6}


def test_epsilon_is_absolute_and_eta_falls_with_the_entropy() -> None:
    assert chosen(FOUR, Sampling(epsilon_cutoff=0.2)) == {0, 1}
    assert chosen(FOUR, Sampling(eta_cutoff=0.2)) == {0, 1, 2}  # sqrt(0.2) e^-1.14 = 0.143


def test_a_cutoff_that_nothing_reaches_leaves_the_most_probable() -> None:
    assert chosen(FOUR, Sampling(epsilon_cutoff=0.9)) == {0}


def test_top_n_sigma_does_not_change_with_temperature() -> None:
    scores = random_logits(seed=4, spread=1.0, vocabulary=60)
    kept = {t: chosen(scores, Sampling(top_n_sigma=1.0, temperature=t), 800) for t in (0.9, 1.0, 3.0)}
    assert kept[0.9] == kept[1.0] == kept[3.0]
    assert len(kept[1.0]) < 20


def test_xtc_excludes_all_but_the_least_of_the_top_choices() -> None:
    assert chosen(FOUR, Sampling(xtc_probability=1.0, xtc_threshold=0.1)) == {2, 3}
    assert chosen(FOUR, Sampling(xtc_probability=0.5, xtc_threshold=0.1)) == {0, 1, 2, 3}
    assert chosen(FOUR, Sampling(xtc_probability=1.0, xtc_threshold=0.4)) == {0, 1, 2, 3}


def test_a_threshold_is_over_what_is_left() -> None:
    """Of the first two, 0.625 and 0.375."""
    two = Sampling(top_k=2, xtc_probability=1.0, xtc_threshold=0.35)
    assert chosen(FOUR, two) == {1}
    assert chosen(FOUR, Sampling(top_k=2, epsilon_cutoff=0.35)) == {0, 1}
    assert chosen(FOUR, Sampling(top_k=2, epsilon_cutoff=0.45)) == {0}
    assert chosen(FOUR, Sampling(top_k=2, top_p=0.6)) == {0}


def test_xtc_looks_beyond_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = random_logits(spread=0.1, vocabulary=40)
    monkeypatch.setattr(ranking, "CANDIDATES", 8)
    assert chosen(scores, Sampling(xtc_probability=1.0, xtc_threshold=0.01)) == {int(scores.argmin())}


def test_xtc_tosses_a_coin_of_its_own() -> None:
    """Where it falls on the other side, the token is the one chosen without XTC."""
    plain = [one(FOUR, Row(sampling=Sampling(seed=seed), tokens=[1])) for seed in range(200)]
    some = Sampling(xtc_probability=0.3, xtc_threshold=0.1)
    with_xtc = [one(FOUR, Row(sampling=replace(some, seed=seed), tokens=[1])) for seed in range(200)]
    differing = sum(a != b for a, b in zip(plain, with_xtc, strict=True))
    assert 20 < differing < 80
    assert all(b >= 2 for a, b in zip(plain, with_xtc, strict=True) if a != b)


def test_the_order_decides_what_a_hot_temperature_lets_in() -> None:
    last = tuple(stage for stage in Stage if stage is not Stage.TEMPERATURE)
    hot = Sampling(temperature=5.0, min_p=0.25)
    assert chosen(FOUR, hot) == {0, 1, 2, 3}
    assert chosen(FOUR, replace(hot, order=(*last, Stage.TEMPERATURE))) == {0, 1, 2}


def test_a_stage_that_the_order_leaves_out_does_nothing() -> None:
    assert chosen(FOUR, Sampling(top_k=1, order=(Stage.TOP_P,))) == {0, 1, 2, 3}


def test_a_penalty_after_a_narrowing_stage_brings_nothing_back() -> None:
    order = (Stage.TOP_K, Stage.PENALTIES)
    sampling = Sampling(top_k=2, presence_penalty=50.0, order=order)
    assert chosen(FOUR, sampling, tokens=[0], prompt_length=0) == {1}
    assert chosen(FOUR, sampling, tokens=[0, 1], prompt_length=0) == {0, 1}


def test_dynamic_temperature_is_cold_where_the_model_is_sure() -> None:
    """Between 0 and 2, with the entropy."""
    flat, steep = torch.tensor([[0.3, 0.25, 0.25, 0.2]]).log(), torch.tensor([[0.97, 0.01, 0.01, 0.01]]).log()
    sampling = Sampling(temperature=1.0, dynatemp_range=1.0)
    assert chosen(flat, sampling) == {0, 1, 2, 3}
    assert chosen(steep, sampling) == {0}


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    assert greedy(torch.tensor([[2.0, 1.5, -1.0, -1.2]]), [0], repetition_penalty=2.0) == 1
    assert greedy(torch.tensor([[-3.0, -3.0, -1.0, -1.2]]), [2], repetition_penalty=2.0) == 3


def test_presence_counts_once_and_frequency_each_time() -> None:
    scores = torch.tensor([[2.0, 1.5, 0.0]])
    assert greedy(scores, [0, 0, 0], presence_penalty=0.4) == 0
    assert greedy(scores, [0, 0, 0], frequency_penalty=0.2) == 1


def test_presence_and_frequency_do_not_look_at_the_prompt() -> None:
    scores = torch.tensor([[2.0, 1.5, 0.0]])
    assert greedy(scores, [0, 1], presence_penalty=1.0, prompt_length=1) == 0
    assert greedy(scores, [0, 2], repetition_penalty=2.0, prompt_length=1) == 1


def test_penalties_look_at_the_last_tokens_only() -> None:
    scores = torch.tensor([[2.0, 1.5, 0.0]])
    penalties: dict[str, Any] = {"presence_penalty": 1.0, "repetition_penalty": 2.0}
    assert greedy(scores, [0, 2, 2], penalty_window=3, **penalties) == 1
    assert greedy(scores, [0, 2, 2], penalty_window=2, **penalties) == 0
    assert greedy(scores, [0], penalty_window=0, **penalties) == 0


def test_a_penalty_next_to_zero_stays_a_number() -> None:
    likely = int(random_logits()[0].topk(2).indices[1])
    row = Row(sampling=Sampling(repetition_penalty=1e-300, seed=3), tokens=[likely])
    assert one(random_logits(), row) == likely


def dried(tokens: list[int], *, loss: float, **dry: Any) -> bool:
    """Whether token 3 loses more than `loss`: it stands so much above the others."""
    scores = torch.zeros(1, 9)
    scores[0, 3] = loss
    return greedy(scores, tokens, dry=Dry(**{"multiplier": 1.0, "base": 2.0, **dry})) != 3


def test_dry_grows_with_the_length_of_the_repetition() -> None:
    assert not dried([1, 3, 1], loss=0.1)  # a run of one is allowed
    assert dried([1, 2, 3, 1, 2], loss=0.9)  # 2 ** 0
    assert not dried([1, 2, 3, 1, 2], loss=1.1)
    assert dried([5, 1, 2, 3, 5, 1, 2], loss=1.9)  # 2 ** 1
    assert dried([1, 2, 3, 4, 5, 1, 2, 3, 8, 5, 1, 2], loss=1.9)  # the longest counts


def test_dry_stops_at_breakers_and_looks_no_further_than_its_window() -> None:
    assert not dried([5, 1, 2, 3, 5, 1, 2], loss=0.1, breakers=(2,))
    assert not dried([5, 1, 2, 3, 5, 1, 2], loss=1.1, breakers=(5,))
    assert not dried([5, 1, 2, 3, 5, 1, 2], loss=0.1, breakers=(3,))
    assert not dried([5, 1, 2, 3, 5, 1, 2], loss=0.1, window=4)
    assert dried([5, 1, 2, 3, 5, 1, 2], loss=0.9, window=6)


def test_a_bias_is_added_first() -> None:
    assert greedy(FOUR, [9], logit_bias=((3, 5.0),)) == 3
    assert greedy(FOUR, [9], logit_bias=((3, 1.5), (3, 1.5))) == 3
    assert greedy(FOUR.abs(), [0], logit_bias=((0, 5.0),), repetition_penalty=3.0) == 3  # (0.69 + 5) / 3 < 3


def test_a_bias_of_minus_a_hundred_is_just_a_number_and_minus_infinity_a_ban() -> None:
    scores = torch.tensor([[150.0, 0.0]])
    assert greedy(scores, [1], logit_bias=((0, -100.0),)) == 0
    assert greedy(scores, [1], logit_bias=((0, -math.inf),)) == 1


def test_nothing_undoes_a_ban() -> None:
    banned = Sampling(logit_bias=((0, -math.inf),), presence_penalty=-100.0, repetition_penalty=1e-9)
    assert chosen(FOUR, banned, tokens=[0], prompt_length=0) == {1, 2, 3}


def test_a_bad_word_is_not_completed() -> None:
    words = ((0,), (2, 1), (3, 3, 1))
    assert greedy(FOUR, [5], bad_words=words) == 1
    assert greedy(FOUR, [2], bad_words=words) == 2
    assert greedy(FOUR, [5, 3], bad_words=words) == 1
    assert greedy(FOUR, [3, 3], bad_words=words) == 2


def test_an_ngram_does_not_come_twice() -> None:
    assert greedy(FOUR, [2, 0, 2], no_repeat_ngram=2) == 1
    assert greedy(FOUR, [2, 0, 2], no_repeat_ngram=3) == 0
    assert greedy(FOUR, [0, 1, 5], no_repeat_ngram=1) == 2


def test_allowed_tokens_and_grammars_leave_only_theirs() -> None:
    assert chosen(FOUR, Sampling(allowed_tokens=(1, 3))) == {1, 3}
    assert chosen(FOUR, Sampling(), allowed=bits(0, 2, words=1)) == {0, 2}
    assert chosen(FOUR, Sampling(allowed_tokens=(1, 2)), allowed=bits(0, 2, words=1)) == {2}


def test_a_grammars_mask_spans_words_and_forbids_what_it_does_not_reach() -> None:
    scores = torch.zeros(1, 100)
    scores[0, 99] = 5.0
    assert chosen(scores, Sampling(), allowed=bits(31, 32, 63, words=2)) == {31, 32, 63}
    assert chosen(scores, Sampling(), allowed=bits(95, 99, 127, words=4)) >= {99}


def test_no_stop_token_comes_before_the_least_number_of_tokens() -> None:
    row = Row(
        sampling=Sampling(temperature=0.0, min_new_tokens=2),
        tokens=[5, 6, 7],
        prompt_length=2,
        stop_tokens=frozenset({0, 1}),
    )
    assert one(FOUR, row) == 2
    assert one(FOUR, replace(row, prompt_length=1)) == 0


def test_a_ban_that_leaves_nothing_gives_way_the_slighter_first() -> None:
    stop: dict[str, Any] = {"stop_tokens": frozenset({1}), "tokens": [5]}
    ended = Sampling(min_new_tokens=9, bad_words=((1,),), logit_bias=((1, -math.inf),))
    assert chosen(FOUR, ended, allowed=bits(1, words=1), **stop) == {1}
    assert chosen(FOUR, Sampling(allowed_tokens=(1, 2), bad_words=((1,), (2,))), **stop) == {1, 2}
    assert chosen(FOUR, Sampling(allowed_tokens=(3,)), allowed=bits(1, words=1), **stop) == {1}
    assert chosen(FOUR, Sampling(allowed_tokens=(1, 2), min_new_tokens=9), **stop) == {2}


def test_each_ban_is_firmer_than_the_next() -> None:
    either = Sampling(allowed_tokens=(0, 1))
    biased = replace(either, logit_bias=((0, -math.inf),), bad_words=((1,),))
    assert chosen(FOUR, biased) == {1}
    assert chosen(FOUR, replace(either, bad_words=((0,),), no_repeat_ngram=1)) == {1}
    repeated = replace(either, no_repeat_ngram=1, min_new_tokens=9)
    assert chosen(FOUR, repeated, tokens=[0], stop_tokens=frozenset({1})) == {1}


def test_ids_that_the_model_does_not_have_stand_for_nothing() -> None:
    strange = (-1, 4, 10**6)
    bias = tuple((token, value) for token in strange for value in (9.0, -math.inf))
    words = tuple((token,) for token in strange)
    assert greedy(FOUR, [3], logit_bias=bias, bad_words=words, allowed_tokens=(*strange, 2)) == 2


def test_the_logprob_is_the_models_own() -> None:
    scores = random_logits()
    sampling = Sampling(temperature=0.3, top_k=2, repetition_penalty=1.3, logit_bias=((5, 60.0),))
    scored = sample(scores, [Row(sampling=sampling, tokens=[5])])[0].scored
    assert scored.token == 5
    assert scored.logprob == pytest.approx(float(scores[0].log_softmax(-1)[5]), abs=1e-6)


def test_alternatives_are_the_models_own_best_first_and_equals_by_id() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0]])
    row = Row(sampling=Sampling(logit_bias=((1, -math.inf),)), tokens=[0], alternatives=3)
    alternatives = sample(scores, [row])[0].scored.alternatives
    logprobs = scores[0].log_softmax(-1).tolist()
    assert [token for token, _ in alternatives] == [1, 3, 2]
    assert [logprob for _, logprob in alternatives] == pytest.approx([logprobs[i] for i in (1, 3, 2)])


def test_a_flat_distribution_is_decided_beyond_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = random_logits(spread=0.001)
    rows = [Row(sampling=Sampling(seed=seed), tokens=[1]) for seed in range(20)]
    by_candidates = [one(scores, row) for row in rows]
    monkeypatch.setattr(ranking, "CANDIDATES", 1000)
    assert [one(scores, row) for row in rows] == by_candidates
    best = set(scores[0].topk(256).indices.tolist())
    assert any(token not in best for token in by_candidates)


@pytest.mark.parametrize("order", [(Stage.TEMPERATURE, Stage.TOP_K), (Stage.TOP_K, Stage.TEMPERATURE)])
def test_equals_stand_in_order_of_id_wherever_temperature_comes(order: tuple[Stage, ...]) -> None:
    for seed in range(20):
        row = Row(sampling=Sampling(temperature=2.0, top_k=4, seed=seed, order=order), tokens=[1])
        assert one(torch.zeros(1, 4), row) == int(uniform(seed, 0, 1) * 4)


def test_what_is_banned_is_in_no_list() -> None:
    scores = random_logits(spread=0.001)[0]
    scores[300:] = -math.inf
    assert sorted(everything(Whole.of(scores)).tokens.tolist()) == list(range(300))


def test_the_falling_order_is_that_of_a_stable_sort() -> None:
    scores = torch.cat(
        [random_logits().round(decimals=1)[0], torch.tensor([0.0, -0.0, 0.0, -math.inf, 3e38, -3e38])]
    )
    expected = scores.sort(descending=True, stable=True).indices
    assert falling(scores.numpy()).tolist() == expected.tolist()


def test_a_range_of_temperatures_too_small_to_matter_changes_nothing() -> None:
    """Nothing times infinity is not a number."""
    sampling = Sampling(dynatemp_range=5e-324, dynatemp_exponent=-1e6)
    assert temperature(sampling, lambda: 0.01) == 1.0
