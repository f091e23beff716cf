"""A decoder's steps: drafts change nothing but the number of steps, prompts are scored once and whole."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.config import Activation, DecoderConfig, Head, Mlp, Norm
from models.decoder import Decoder
from models.kv_cache import KVCache
from models.layers.linear import prepack
from models.positions import Rotary
from server.execution.generation import DecoderRunner
from server.request import Sampling
from server.scheduling.plan import DecodeStep, Results, Scored, Slice
from server.scheduling.sequence import Sequence

CPU = torch.device("cpu")
CONFIG = DecoderConfig(
    architecture="llama",
    vocab_size=64,
    hidden_size=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_size=64,
    context_length=128,
    norm=Norm.RMS,
    norm_eps=1e-5,
    mlp=Mlp.GATED,
    activation=Activation.SILU,
    positions=Rotary(),
    head=Head.TIED,
)
PROMPT = [5, 9, 2, 33, 9, 2, 41, 7]
SAMPLING = Sampling(temperature=0.7, top_p=0.9, repetition_penalty=1.2, seed=3)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(CONFIG).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.data = (parameter.data * 3).bfloat16()
    prepack(decoder)
    return decoder


@pytest.fixture
def runner(decoder: Decoder) -> DecoderRunner:
    cache = KVCache(CONFIG, num_blocks=16, block_size=4, device=CPU, dtype=torch.bfloat16)
    return DecoderRunner(decoder, cache, CPU)


def sequence(prompt: Seq[int] = PROMPT, *, blocks: Seq[int] = tuple(range(8)), **rest: object) -> Sequence:
    one = Sequence(id=1, tokens=list(prompt), max_new_tokens=20, sampling=SAMPLING)
    one.blocks = list(blocks)
    for name, value in rest.items():
        setattr(one, name, value)
    return one


def run(runner: DecoderRunner, one: Sequence, count: int, draft: Seq[int] = ()) -> Results:
    """One step, applied to the sequence as the scheduler would."""
    step = DecodeStep(model="m", slices=(Slice(one, one.computed, count + len(draft), tuple(draft)),))
    with torch.inference_mode():
        results = runner.run(step)
    new = [scored.token for scored in results.sampled[one.id].tokens] if one.id in results.sampled else []
    one.computed += count + max(len(new) - 1, 0)
    one.tokens += new
    one.scored += len(results.prompt.get(one.id, ()))
    return results


def one_by_one(runner: DecoderRunner, count: int) -> list[int]:
    one = sequence()
    run(runner, one, len(PROMPT))
    for _ in range(count - 1):
        run(runner, one, 1)
    return one.tokens[len(PROMPT) :]


def test_a_right_draft_stands_whole_and_one_more_token_comes_with_it(runner: DecoderRunner) -> None:
    truth = one_by_one(runner, 8)
    one = sequence(blocks=range(8, 16))
    run(runner, one, len(PROMPT), draft=truth[:4])
    assert one.tokens[len(PROMPT) :] == truth[:5]
    run(runner, one, 1, draft=truth[5:7])
    assert one.tokens[len(PROMPT) :] == truth


@pytest.mark.parametrize("wrong_at", [0, 1, 3])
def test_a_draft_stands_up_to_its_first_wrong_token_and_leaves_no_trace(
    runner: DecoderRunner, wrong_at: int
) -> None:
    truth = one_by_one(runner, 10)
    draft = truth[:4]
    draft[wrong_at] = (draft[wrong_at] + 1) % CONFIG.vocab_size
    one = sequence(blocks=range(8, 16))
    run(runner, one, len(PROMPT), draft=draft)
    assert one.tokens[len(PROMPT) :] == truth[: wrong_at + 1]
    while one.generated < len(truth):
        run(runner, one, 1)
    assert one.tokens[len(PROMPT) :] == truth


def whole_scores(decoder: Decoder, prompt: Seq[int]) -> Tensor:
    """logprobs [prompt - 1, vocab] of each place but the last, by a fresh cache and one pass."""
    cache = KVCache(CONFIG, num_blocks=8, block_size=4, device=CPU, dtype=torch.bfloat16)
    fresh = DecoderRunner(decoder, cache, CPU)
    one = sequence(prompt, prompt_alternatives=CONFIG.vocab_size)
    (scores,) = run(fresh, one, len(prompt)).prompt.values()
    rows = [[logprob for _, logprob in sorted(scored.alternatives)] for scored in scores]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_a_prompt_is_scored_the_same_in_chunks(decoder: Decoder, runner: DecoderRunner, chunk: int) -> None:
    whole = whole_scores(decoder, PROMPT)
    assert torch.allclose(whole.exp().sum(-1), torch.ones(len(PROMPT) - 1, dtype=torch.float64), atol=1e-5)
    one, scores = sequence(prompt_alternatives=2), list[Scored]()
    while one.pending:
        count = min(chunk, one.pending)
        scores += run(runner, one, count).prompt.get(1, ())
        if one.generated:
            break
    assert [scored.token for scored in scores] == PROMPT[1:]
    assert [scored.logprob for scored in scores] == whole[range(len(PROMPT) - 1), PROMPT[1:]].tolist()
    best = whole.sort(dim=-1, descending=True, stable=True).indices[:, :2].tolist()
    assert [[token for token, _ in scored.alternatives] for scored in scores] == best


def test_a_preempted_prompt_is_scored_no_second_time(runner: DecoderRunner) -> None:
    one = sequence(prompt_alternatives=0)
    assert len(run(runner, one, 5).prompt[1]) == 5
    one.computed = 0
    assert [scored.token for scored in run(runner, one, len(PROMPT)).prompt[1]] == PROMPT[6:]


def test_a_prompt_is_scored_without_a_new_token(runner: DecoderRunner) -> None:
    one = sequence(prompt_alternatives=0, max_new_tokens=0)
    results = run(runner, one, len(PROMPT))
    assert len(results.prompt[1]) == len(PROMPT) - 1
    assert not results.sampled


class Only:
    """A grammar whose text is these tokens, one after the other."""

    def __init__(self, *tokens: int) -> None:
        self._left = list(tokens)

    failure = None

    def allowed(self) -> Tensor:
        bits = torch.zeros(CONFIG.vocab_size, dtype=torch.int64)
        bits[self._left[0]] = 1
        words = (bits.view(-1, 32) << torch.arange(32)).sum(-1)
        return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)

    def advance(self, token: int) -> None:
        assert token == self._left.pop(0)


def test_a_constrained_sequence_says_what_its_grammar_allows(runner: DecoderRunner) -> None:
    one = sequence(sampling=replace(SAMPLING, temperature=5.0))
    runner.constrain(one.id, Only(31, 63, 0))
    run(runner, one, len(PROMPT))
    run(runner, one, 1)
    run(runner, one, 1)
    assert one.tokens[len(PROMPT) :] == [31, 63, 0]
    runner.forget(one.id)
    runner.forget(one.id)
    run(runner, one, 1)
