"""A token's value does not depend on who else is computed, nor on how its text was cut: bit for bit.

In float32 and bfloat16 on a CPU, where `keeps_its_bits` says so of the machine's kernels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from models.config import Activation, Bias, DecoderConfig, Head, Local, Mlp, Norm, QueryKeyNorm, Residual
from models.decoder import Decoder
from models.invariance import Scores, keeps_its_bits, scores_of
from models.layers.linear import Linear, prepack, project
from models.positions import Alibi, Learned, Rotary
from server.execution.device import is_batch_invariant
from tests.models.paged import CPU, Session

BATCHES = range(2, 18)
LLAMA = DecoderConfig(
    architecture="llama",
    vocab_size=512,
    hidden_size=192,
    layers=2,
    heads=3,
    kv_heads=1,
    head_dim=64,
    mlp_size=1536,  # long enough for a lone row to take a kernel of its own
    context_length=2048,
    norm=Norm.RMS,
    norm_eps=1e-5,
    mlp=Mlp.GATED,
    activation=Activation.SILU,
    positions=Rotary(),
    head=Head.TIED,
)
GPT2 = DecoderConfig(
    architecture="gpt2",
    vocab_size=509,  # a multiple of no tile, as GPT-2's 50257
    hidden_size=128,
    layers=2,
    heads=2,
    kv_heads=2,
    head_dim=64,
    mlp_size=3072,
    context_length=2048,
    norm=Norm.LAYER,
    norm_eps=1e-5,
    mlp=Mlp.PLAIN,
    activation=Activation.GELU_TANH,
    positions=Learned(rows=2048),
    head=Head.UNTIED,
    biases=frozenset({Bias.QKV, Bias.ATTENTION_OUT, Bias.MLP}),
)
MISTRAL = replace(
    LLAMA,
    architecture="mistral",
    heads=8,
    kv_heads=1,
    head_dim=80,
    local=Local(layers=frozenset(range(LLAMA.layers)), window=100),
)
QWEN3 = replace(
    LLAMA, architecture="qwen3", heads=4, kv_heads=2, head_dim=128, query_key_norm=QueryKeyNorm(norm=Norm.RMS)
)
GEMMA2 = replace(
    LLAMA,
    architecture="gemma2",
    heads=4,
    kv_heads=2,
    head_dim=96,
    norm=Norm.RMS_OFFSET,
    activation=Activation.GELU_TANH,
    residual=Residual.SANDWICH,
    embedding_scale=LLAMA.hidden_size**0.5,
    scale=224**-0.5,
    score_cap=5.0,
    logit_cap=30.0,
    local=Local(layers=frozenset({0}), window=100),
)
BLOOM = replace(
    GPT2,
    architecture="bloom",
    hidden_size=192,
    heads=3,
    kv_heads=3,
    positions=Alibi(),
    head=Head.TIED,
    embedding_norm=True,
)
CONFIGS = [LLAMA, GPT2, MISTRAL, QWEN3, GEMMA2, BLOOM]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=DTYPES, ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    if not keeps_its_bits(found):
        pytest.skip(f"this machine's kernels for {found} depend on the batch, and /info says so")
    return found


@pytest.fixture(params=CONFIGS, ids=[config.architecture for config in CONFIGS])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    found: DecoderConfig = request.param
    return found


@pytest.fixture
def decoder(config: DecoderConfig, dtype: torch.dtype) -> Decoder:
    return make_decoder(config, dtype)


@pytest.fixture(params=[1], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One is quickest for small tensors. `THREADS` is for tests of kernels that share rows among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


THREADS = pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)


def make_decoder(config: DecoderConfig, dtype: torch.dtype, *, packed: bool = True) -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.data = parameter.data.to(dtype)  # not `decoder.to`, which would cast the rotary buffer
    assert not packed or prepack(decoder)
    return decoder


def open_session(decoder: Decoder) -> Session:
    return Session(decoder, decoder.config, dtype=decoder.embeddings.words.weight.dtype, num_blocks=512)


def tokens_of(length: int, seed: int) -> list[int]:
    return torch.randint(0, 509, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def assert_equal_rows(changed: Tensor, expected: Tensor) -> None:
    assert (changed != expected).any(dim=-1).nonzero().flatten().tolist() == []


def test_a_decoded_token_is_the_same_alone_and_in_every_batch(decoder: Decoder) -> None:
    texts = {str(i): tokens_of(1 + 4 * i, i) for i in range(32)}
    alone = {name: open_session(decoder) for name in texts}
    for name, text in texts.items():
        alone[name].step([(name, text)])
    batch = open_session(decoder)
    batch.step(texts.items())
    for size in (2, 7, 32):
        names = list(texts)[-size:]
        for name, logits in zip(names, batch.step((name, [7]) for name in names), strict=True):
            assert_equal_rows(logits, alone[name].step([(name, [7])])[0])


@pytest.mark.parametrize("chunk", [1, 3, 16, 64, 200, 512])
def test_a_prompt_is_the_same_in_chunks_of_any_size(decoder: Decoder, chunk: int) -> None:
    text = tokens_of(
        max(chunk + 20, 141), 1
    )  # beyond 128: tiles of queries, and padded contexts, are crossed
    (whole,) = open_session(decoder).step([("text", text)])
    session = open_session(decoder)
    parts = [session.step([("text", text[at : at + chunk])])[0] for at in range(0, len(text), chunk)]
    assert_equal_rows(torch.cat(parts), whole)


@pytest.mark.parametrize("config", [LLAMA, BLOOM], ids=["llama", "bloom"])
def test_a_long_text_goes_on_as_if_computed_at_once(decoder: Decoder) -> None:
    """Around each length that contexts are padded to: 512, then every 512 more."""
    text = tokens_of(1540, 1)
    (whole,) = open_session(decoder).step([("text", text)])
    session = open_session(decoder)
    at = 0
    for edge in (512, 1024, 1536):
        for count in (edge - 2 - at, 1, 1, 1):  # the last token before the edge, the edge, the first behind
            (part,) = session.step([("text", text[at : at + count])])
            assert_equal_rows(part, whole[at : at + count])
            at += count


def test_a_prompt_is_the_same_beside_decoding_neighbours(decoder: Decoder) -> None:
    text = tokens_of(150, 1)
    (alone,) = open_session(decoder).step([("text", text)])
    session = open_session(decoder)
    session.step((f"neighbour {i}", tokens_of(50 * i + 1, i)) for i in range(5))
    *_, beside = session.step([*((f"neighbour {i}", [3]) for i in range(5)), ("text", text)])
    assert torch.equal(alone, beside)


@pytest.mark.parametrize("config", [LLAMA, MISTRAL], ids=["llama", "mistral"])
@pytest.mark.parametrize("drafted", [1, 2, 3, 4, 7])
def test_a_verified_draft_has_the_bits_of_tokens_decoded_one_by_one(decoder: Decoder, drafted: int) -> None:
    prompt, draft = tokens_of(61, 1), tokens_of(1 + drafted, 2)
    one_by_one = open_session(decoder)
    one_by_one.step([("text", prompt)])
    expected = torch.cat([one_by_one.step([("text", [token])])[0] for token in draft])
    verified = open_session(decoder)
    verified.step([("text", prompt), ("other", prompt[:9])])
    _, logits = verified.step([("other", draft[:2]), ("text", draft)])
    assert_equal_rows(logits, expected)


@THREADS
@pytest.mark.parametrize("config", [LLAMA, GEMMA2], ids=["llama", "gemma2"])
def test_the_law_holds_with_any_number_of_threads(decoder: Decoder) -> None:
    text = tokens_of(135, 1)
    (whole,) = open_session(decoder).step([("text", text)])
    session = open_session(decoder)
    session.step([("other", text[:20]), ("text", text[:129])])
    parts = [session.step([("text", [token]), ("other", [token])])[0] for token in text[129:]]
    assert_equal_rows(torch.cat(parts), whole[129:])


class Work:
    """Texts of one decoder, and each one's logits computed alone and at once."""

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        self.decoder = make_decoder(config, dtype)
        self.texts = [tokens_of(length, length) for length in (1, 5, 33, 70, 131, 260)]
        self.expected = [open_session(self.decoder).step([("text", text)])[0] for text in self.texts]

    def compute_in(self, plan: random.Random) -> list[Tensor]:
        """In steps that mix chunks of prompts, decoded tokens and drafts, of texts that come and go."""
        session, done = open_session(self.decoder), [0] * len(self.texts)
        parts: list[list[Tensor]] = [[] for _ in self.texts]
        while unfinished := [i for i, text in enumerate(self.texts) if done[i] < len(text)]:
            chosen = plan.sample(unfinished, plan.randint(1, len(unfinished)))
            ends = [done[i] + plan.choice([1, 1, 2, 3, 5, 16, 30, 64, 130]) for i in chosen]
            slices = [(i, self.texts[i][done[i] : end]) for i, end in zip(chosen, ends, strict=True)]
            logits = session.step((str(i), tokens) for i, tokens in slices)
            for (i, tokens), part in zip(slices, logits, strict=True):
                parts[i].append(part)
                done[i] += len(tokens)
        return [torch.cat(part) for part in parts]


@pytest.fixture(scope="module")
def works() -> dict[tuple[str, torch.dtype], Work]:
    return {}


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.randoms(use_true_random=False))
def test_texts_are_the_same_however_steps_are_mixed(
    works: dict[tuple[str, torch.dtype], Work], config: DecoderConfig, dtype: torch.dtype, plan: random.Random
) -> None:
    key = (config.architecture, dtype)
    if key not in works:
        works[key] = Work(config, dtype)
    for computed, expected in zip(works[key].compute_in(plan), works[key].expected, strict=True):
        assert_equal_rows(computed, expected)


@THREADS
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize(("inputs", "outputs"), [(576, 320), (1536, 192), (3072, 256), (48, 83)])
def test_a_row_through_a_layer_is_the_same_in_every_batch(
    inputs: int, outputs: int, packed: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = Linear(inputs, outputs).to(dtype).requires_grad_(False)
    rows = torch.randn(300, inputs).to(dtype)
    expected = functional.linear(rows, layer.weight, layer.bias)
    assert not packed or prepack(layer)
    together = layer(rows)
    assert_equal_rows(torch.cat([layer(row[None]) for row in rows[:17]]), together[:17])
    for size in (*BATCHES, 33, 101, 255):
        assert_equal_rows(layer(rows[:size]), together[:size])
    torch.testing.assert_close(together, expected, atol=1e-5 if dtype is torch.float32 else 2e-2, rtol=0)


@THREADS
@pytest.mark.parametrize(("inputs", "words"), [(576, 1024), (768, 1001)])
def test_a_row_against_a_shared_table_is_the_same_in_every_batch(
    inputs: int, words: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    table, rows = torch.randn(words, inputs).to(dtype), torch.randn(101, inputs).to(dtype)
    together = project(rows, table)
    assert_equal_rows(torch.cat([project(row[None], table) for row in rows[:9]]), together[:9])
    for size in (*BATCHES, 32):
        assert_equal_rows(project(rows[-size:], table), together[-size:])


def test_packing_keeps_one_copy_of_the_weight() -> None:
    layer = Linear(64, 64).bfloat16().requires_grad_(False)
    assert prepack(layer)
    assert layer.weight.numel() == 0
    assert (layer.in_features, layer.out_features) == (64, 64)


def test_a_dtype_without_packed_kernels_stays_plain() -> None:
    layer = Linear(64, 64).double().requires_grad_(False)
    assert not prepack(layer)
    assert layer.weight.shape == (64, 64)


def test_a_plain_layer_learns_from_every_row_and_from_no_other() -> None:
    layer, rows = Linear(8, 4), torch.randn(5, 8, requires_grad=True)
    layer(rows).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, rows.detach().sum(0).expand(4, 8))
    assert rows.grad is not None
    assert (rows.grad != 0).all()


@pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="only there is it known that everything holds"
)
@pytest.mark.parametrize("scores", Scores)
def test_the_law_is_claimed_where_the_tests_above_hold_it(scores: Scores) -> None:
    assert [is_batch_invariant(CPU, dtype, scores) for dtype in DTYPES] == [True, True]


def test_what_is_tried_is_what_a_model_does_to_its_scores() -> None:
    tried = {config.architecture: scores_of(config) for config in CONFIGS}
    assert tried["gemma2"] is Scores.CAPPED
    assert tried["bloom"] is Scores.BIASED
    assert {tried[name] for name in ("llama", "gpt2", "mistral", "qwen3")} == {Scores.PLAIN}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=["float16", "float64"])
def test_the_law_is_not_claimed_where_no_test_holds_it(dtype: torch.dtype) -> None:
    assert not is_batch_invariant(CPU, dtype)


def test_trying_leaves_the_random_numbers_of_the_process_alone() -> None:
    keeps_its_bits.cache_clear()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    keeps_its_bits(torch.float32)
    assert torch.equal(torch.rand(3), expected)


def test_kernels_that_depend_on_the_batch_are_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are without rows in fours: any kernel that sums a lone row in another order."""

    def depends_on_company(rows: Tensor, table: Tensor, bias: Tensor | None = None) -> Tensor:
        order = torch.arange(rows.shape[1] - 1, -1, -1) if len(rows) == 1 else torch.arange(rows.shape[1])
        return functional.linear(rows[:, order], table[:, order], bias)

    keeps_its_bits.cache_clear()
    monkeypatch.setattr("models.layers.embedding.project", depends_on_company)
    try:
        assert not any(keeps_its_bits(torch.float32, scores) for scores in Scores)
    finally:
        keeps_its_bits.cache_clear()
