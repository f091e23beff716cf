"""What branches go on with: the best sums of all their next tokens, and of equals the first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.kv_cache import KVCache
from server.execution.beams import continue_beams
from server.request import Beams, Sampling
from server.scheduling.beams import Search
from server.scheduling.plan import Continuation, Scored, Slice
from server.scheduling.sequence import Sequence
from tests.execution.test_generation import CONFIG, CPU

VOCABULARY = 6
GREEDY = Sampling(temperature=0.0)


def begin(
    id_: int = 1, *, width: int = 2, new: int = 9, prompt: tuple[int, ...] = (0, 1), **rest: Any
) -> Slice:
    """The prompt is computed."""
    given: dict[str, Any] = {"sampling": GREEDY, "stop_tokens": frozenset({5})} | rest
    one = Sequence(id=id_, tokens=[*prompt], max_new_tokens=new, beams=Beams(width=width), **given)
    return Slice(one, 0, len(prompt))


def go_on(piece: Slice, *branches: tuple[int, float]) -> Slice:
    """Each branch has said a token, and has a score."""
    one = piece.sequence
    assert one.beams is not None
    one.search = Search(one.beams, table=(), stop_tokens=one.stop_tokens, max_new_tokens=one.max_new_tokens)
    one.search.advance([Continuation(0, Scored(token, -1.0), score) for token, score in branches])
    return Slice(one, len(one.tokens), 1, width=len(branches))


def logits(*rows: list[float]) -> Tensor:
    """As log-probabilities already."""
    return torch.tensor(rows).log_softmax(dim=-1)


def best(rows: Tensor, *slices: Slice) -> list[list[tuple[int, int]]]:
    """(parent, token) of the continuations of each search."""
    continued = continue_beams(rows, slices)
    return [[(one.parent, one.scored.token) for one in continued[piece.sequence.id]] for piece in slices]


def test_a_prompt_goes_on_with_its_own_best_tokens() -> None:
    rows = logits([0.0, 3.0, 1.0, 2.0, -1.0, -2.0])
    assert best(rows, begin()) == [[(0, 1), (0, 3), (0, 2), (0, 0)]]


def test_a_branch_is_ahead_by_its_score() -> None:
    rows = logits([0.0, 3.0, 1.0, 2.0, -1.0, -2.0], [0.0, 3.0, 1.0, 2.0, -1.0, -2.0])
    assert best(rows, go_on(begin(), (2, -1.0), (3, -2.5))) == [[(0, 1), (0, 3), (1, 1), (0, 2)]]
    (continued,) = continue_beams(rows, [go_on(begin(), (2, -1.0), (3, -2.5))]).values()
    assert continued[0].score == pytest.approx(-1.0 + float(rows[0, 1]))
    assert continued[2].scored.logprob == pytest.approx(float(rows[1, 1]))


def test_there_is_one_more_for_each_stop_token_that_might_win() -> None:
    rows = logits([0.0, 3.0, 1.0, 2.0, -1.0, -2.0])
    assert len(best(rows, begin(stop_tokens=frozenset({3, 4, 5})))[0]) == 8


def test_of_equals_the_first_branch_and_its_first_tokens_are_taken() -> None:
    """More of them than are wanted, so that `topk` alone might take any."""
    rows = torch.zeros(2, 5000)
    assert best(rows, go_on(begin(), (2, -1.0), (3, -1.0))) == [[(0, 0), (0, 1), (0, 2), (0, 3)]]
    rows[1, 4000] = 1.0
    assert best(rows, go_on(begin(), (2, -1.0), (3, -1.0)))[0][0] == (1, 4000)


def test_where_there_are_fewer_tokens_than_wanted_all_are_taken() -> None:
    rows = logits([0.0, 1.0])
    assert best(rows, begin(stop_tokens=frozenset({1}))) == [[(0, 1), (0, 0), (1, 0), (1, 1)]]


def test_a_search_is_the_same_beside_others() -> None:
    torch.manual_seed(0)
    first, second, third = torch.randn(1, 50), torch.randn(3, 50), torch.randn(2, 50)

    def slices() -> tuple[Slice, Slice, Slice]:
        return (
            begin(1),
            go_on(begin(2, width=3), (2, -1.0), (3, -1.5), (4, -1.6)),
            go_on(begin(3), (2, -0.5), (3, -0.7)),
        )

    together = continue_beams(torch.cat([first, second, third]), slices())
    for rows, piece in zip((first, second, third), slices(), strict=True):
        assert together[piece.sequence.id] == continue_beams(rows, [piece])[piece.sequence.id]


def test_each_branch_is_banned_from_repeating_its_own_text() -> None:
    rows = logits([0.0, 3.0, 1.0, 2.0, -1.0, -2.0], [0.0, 3.0, 1.0, 2.0, -1.0, -2.0])
    piece = go_on(begin(sampling=Sampling(temperature=0.0, no_repeat_ngram=1)), (2, -1.0), (3, -1.0))
    assert best(rows, piece) == [[(0, 3), (1, 2), (0, 4), (1, 4)]]


def test_what_is_forced_costs_nothing() -> None:
    rows = logits([0.0, 3.0, 1.0, 2.0, -1.0, -2.0])
    sampling = Sampling(temperature=0.0, forced_first=4, forced_last=3)
    (continued,) = continue_beams(rows, [begin(sampling=sampling)]).values()
    assert (continued[0].scored, continued[0].score) == (Scored(4, float(rows[0, 4])), 0.0)
    last = go_on(begin(sampling=sampling, new=2), (2, -1.0), (1, -1.5))
    (continued,) = continue_beams(rows.expand(2, -1), [last]).values()
    assert [(one.parent, one.scored.token, one.score) for one in continued[:2]] == [
        (0, 3, -1.0),
        (1, 3, -1.5),
    ]


def test_log_probabilities_and_alternatives_are_the_models_own() -> None:
    rows = logits([0.0, 3.0, 1.0, 2.0, -1.0, -2.0], [3.0, 0.0, 1.0, 2.0, -1.0, -2.0])
    sampling = Sampling(temperature=0.0, logit_bias=((1, -50.0),))
    piece = go_on(begin(sampling=sampling, alternatives=1), (2, -1.0), (3, -9.0))
    (continued,) = continue_beams(rows, [piece]).values()
    assert continued[0].scored == Scored(3, float(rows[0, 3]), ((1, float(rows[0, 1])),))
    assert (continued[2].parent, continued[2].scored.token) == (0, 0)
    assert {one.scored.alternatives[0][0] for one in continued if one.parent == 1} <= {0}


def test_a_row_that_is_no_number_harms_nobody_else() -> None:
    rows = torch.cat([torch.full((1, 6), float("nan")), logits([0.0, 3.0, 1.0, 2.0, -1.0, -2.0])])
    assert len(best(rows, begin(1), begin(2))[0]) == 4
    assert best(rows, begin(1), begin(2))[1] == [(0, 1), (0, 3), (0, 2), (0, 0)]


def test_blocks_are_copied_in_every_layer_as_they_were_before() -> None:
    cache = KVCache(CONFIG, num_blocks=6, block_size=4, device=CPU, dtype=torch.float32)
    for number, layer in enumerate((*cache.keys, *cache.values)):
        layer.copy_(torch.randn(layer.shape, generator=torch.Generator().manual_seed(number)))
    before = [layer.clone() for layer in (*cache.keys, *cache.values)]
    cache.copy_blocks([(1, 4), (1, 0), (2, 3)])
    cache.copy_blocks([])
    for layer, was in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(layer, was[[1, 1, 2, 2, 1, 5]])
