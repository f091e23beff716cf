"""The client and the load generator against our own HTTP edge: the two ends agree on the wire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from server.api.app import create_app
from server.errors import EngineFailed, NotReady, Overloaded
from server.request import Beams, EarlyStopping, GenerateRequest, Grammar, GrammarKind
from server.text.generation_defaults import GenerationDefaults
from tests.api.live import live_server
from tests.fakes import DECODER, TRANSLATOR, FakeEngine
from triptych_client import (
    Client,
    InvalidRequest,
    NotFound,
    Options,
    Piece,
    RequestFailed,
    ServerFailed,
    TextOptions,
)
from triptych_client import NotReady as ClientNotReady
from triptych_client import Overloaded as ClientOverloaded
from triptych_client.bench import Plan, measure, openai_completions, summarize, tgi


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def url(engine: FakeEngine) -> Iterator[str]:
    with live_server(create_app(engine)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_a_text_is_the_same_whole_and_in_pieces(client: Client) -> None:
    whole = client.generate("Say it", temperature=0.5, seed=7)
    pieces = list(client.stream("Say it", temperature=0.5, seed=7))
    assert (whole.text, whole.finish_reason, whole.generated_tokens, whole.seed) == (
        "Hello!",
        "eos_token",
        3,
        7,
    )
    assert whole.prompt_tokens == 2
    assert "".join(piece.text for piece in pieces) == whole.text
    assert pieces[-1].result == whole


def test_every_option_is_understood(client: Client, engine: FakeEngine) -> None:
    options: Options = {
        "max_new_tokens": 2,
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "seed": 7,
        "stop": ["never"],
        "ignore_eos": True,
        "model": "gpt",
    }
    assert client.generate("a", **options).finish_reason == "length"
    assert client.chat("a", **options).finish_reason == "length"
    generated, chatted = engine.asked
    for asked in (generated, chatted):
        sampling = asked.sampling  # type: ignore[union-attr]
        assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 9, 0.9, 0.1)
        assert (sampling.repetition_penalty, sampling.seed) == (1.5, 7)
        assert (asked.stop, asked.ignore_eos, asked.model) == (("never",), True, "gpt")  # type: ignore[union-attr]


def test_scores_samples_and_standing_are_understood(client: Client, engine: FakeEngine) -> None:
    engine.others, engine.expires_at = (("B",),), 9
    options: Options = {
        "temperature": 0.5,
        "n": 2,
        "top_logprobs": 2,
        "priority": 3,
        "timeout_s": 60,
        "receipt": True,
    }
    for result in (client.generate("a", **options), client.chat("a", **options)):
        assert (result.text, [text.text for text in result.others]) == ("Hello!", ["B"])
        assert [token.text for token in result.tokens] == ["Hel", "lo", "!"]
        assert [other.logprob for other in result.tokens[0].alternatives] == [-0.5, -1.0]
        assert result.receipt is not None
    for asked in engine.asked:
        assert (asked.terms.priority, asked.terms.timeout_s) == (3, 60)


@pytest.mark.parametrize(
    ("options", "kind", "source"),
    [
        ({"json_schema": {"type": "object"}}, GrammarKind.JSON_SCHEMA, '{"type": "object"}'),
        ({"json_schema": '{"type": "object"}'}, GrammarKind.JSON_SCHEMA, '{"type": "object"}'),
        ({"regex": "[ab]+"}, GrammarKind.REGEX, "[ab]+"),
        ({"choices": ("yes", "no")}, GrammarKind.CHOICE, '["yes", "no"]'),
        ({"grammar": 'start: "a"'}, GrammarKind.EBNF, 'start: "a"'),
    ],
)
def test_what_the_text_must_be_is_understood(
    client: Client, engine: FakeEngine, options: Options, kind: GrammarKind, source: str
) -> None:
    client.generate("a", **options)
    client.chat("a", **options)
    assert [asked.grammar for asked in engine.asked if isinstance(asked, GenerateRequest)] == [
        Grammar(kind=kind, source=source)
    ] * 2


def test_two_wishes_for_one_text_are_refused_before_anything_is_sent(
    client: Client, engine: FakeEngine
) -> None:
    with pytest.raises(ValueError, match="`regex` and `choices` exclude each other"):
        client.generate("a", regex="a", choices=["b"])
    assert not engine.asked


def test_what_has_no_option_of_its_own_is_an_extra(client: Client, engine: FakeEngine) -> None:
    client.generate("a", extra={"dry_multiplier": 0.5})
    client.chat("a", extra={"dry_multiplier": 0.5})
    for asked in engine.asked:
        assert asked.sampling.dry.multiplier == 0.5  # type: ignore[union-attr]
    with pytest.raises(InvalidRequest, match=r"unknown field `parameters\.colour`"):
        client.generate("a", extra={"colour": "red"})


@pytest.mark.parametrize("expires_at", [0, 2])
def test_a_deadline_between_two_tokens_adds_none(client: Client, engine: FakeEngine, expires_at: int) -> None:
    engine.expires_at = expires_at
    *pieces, last = client.stream("a", timeout_s=0.5)
    assert [piece.token is None for piece in pieces] == [False] * expires_at
    assert (last.text, last.token) == ("", None)
    assert last.result is not None
    assert last.result.finish_reason == "timeout"
    assert len(last.result.tokens) == last.result.generated_tokens == expires_at


def test_a_deadline_is_told_as_the_reason(client: Client, engine: FakeEngine) -> None:
    engine.expires_at = 2
    assert client.generate("a", timeout_s=0.5).finish_reason == "timeout"
    assert client.chat("a", timeout_s=0.5).finish_reason == "timeout"


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"temperature": 0, "top_k": 5, "seed": 7}])
def test_greedy_is_greedy_at_the_other_end(client: Client, engine: FakeEngine, options: Options) -> None:
    client.generate("a", **options)
    assert engine.asked[0].sampling.greedy  # type: ignore[union-attr]


def test_a_chat_is_the_same_whole_and_in_pieces(client: Client) -> None:
    whole = client.chat("Say it", seed=7)
    pieces = list(client.stream_chat([{"role": "user", "content": "Say it"}], seed=7))
    assert (whole.text, whole.finish_reason, whole.generated_tokens, whole.seed) == ("Hello!", "stop", 3, 7)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert pieces[-1].result == whole


def test_masks_are_filled(client: Client) -> None:
    [mask] = client.fill_mask("the [MASK]", top_k=2)
    assert [(candidate.token_str, candidate.sequence) for candidate in mask] == [
        ("capital", "the capital"),
        ("heart", "the heart"),
    ]
    assert [len(mask) for mask in client.fill_mask("[MASK] [MASK]", targets=["heart"])] == [1, 1]


def test_texts_are_embedded(client: Client) -> None:
    assert client.embed("one") == [[0.5, -0.25]]
    assert client.embed(["one", "two"], normalize=False, truncate=True) == [[0.5, -0.25]] * 2


def test_a_beam_search_is_understood(client: Client, engine: FakeEngine) -> None:
    options: Options = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"}
    assert client.generate("a", **options).text == client.chat("a", **options).text == "Hello!"
    *_, last = client.stream("a", **options)
    assert last.result is not None
    beams = Beams(width=4, length_penalty=2.0, early_stopping=EarlyStopping.NEVER)
    for asked in engine.asked:
        assert isinstance(asked, GenerateRequest)
        assert (asked.beams, asked.sampling.greedy) == (beams, True)
    with pytest.raises(InvalidRequest, match="`top_k` and `num_beams` exclude each other"):
        client.generate("a", top_k=3, num_beams=4)


@pytest.fixture
def translator() -> FakeEngine:
    return FakeEngine(cards=(TRANSLATOR,))


@pytest.fixture
def rewriting(translator: FakeEngine) -> Iterator[Client]:
    """A client of a server with an encoder-decoder."""
    with live_server(create_app(translator)) as url, Client(url) as client:
        yield client


def test_texts_are_summarized_as_the_folder_says_or_the_caller(
    rewriting: Client, translator: FakeEngine
) -> None:
    translator.defaults = GenerationDefaults(num_beams=2, max_length=9)
    assert rewriting.summarize("one") == ["Hello!"]
    assert rewriting.summarize(["one", "two"], num_beams=4, max_new_tokens=3, truncate=True) == ["Hello!"] * 2
    usual, *chosen = (asked for asked in translator.asked if isinstance(asked, GenerateRequest))
    assert (usual.beams, usual.max_new_tokens, usual.truncate) == (Beams(width=2), 8, None)
    for asked in chosen:
        assert (asked.beams, asked.max_new_tokens, asked.truncate) == (Beams(width=4), 3, 32)


def test_every_option_of_a_translation_is_understood(rewriting: Client, translator: FakeEngine) -> None:
    translator.spoken, translator.expires_at = ("en_XX", "de_DE"), 9
    options: TextOptions = {
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "seed": 7,
        "stop": "never",
        "ignore_eos": True,
        "model": "t5",
        "priority": 3,
        "timeout_s": 60,
        "extra": {"min_tokens": 2},
    }
    rewriting.translate("a", src_lang="en_XX", tgt_lang="de_DE", clean_up_spaces=True, **options)
    (asked,) = translator.asked
    assert isinstance(asked, GenerateRequest)
    assert (asked.source_language, asked.target_language) == ("en_XX", "de_DE")
    assert (asked.stop, asked.ignore_eos, asked.max_new_tokens) == (("never",), True, 9)
    assert (asked.terms.priority, asked.terms.timeout_s) == (3, 60)
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 9, 0.9, 0.1)
    assert (sampling.repetition_penalty, sampling.seed, sampling.min_new_tokens) == (1.5, 7, 2)


@pytest.mark.parametrize("method", ["summarize", "translate"])
def test_a_text_that_its_deadline_cut_short_is_never_taken_for_a_whole_one(
    rewriting: Client, translator: FakeEngine, method: str
) -> None:
    translator.expires_at = 1
    with pytest.raises(ClientOverloaded, match="`timeout` passed before the text was complete"):
        getattr(rewriting, method)("a", timeout_s=0.5)


def test_a_task_that_no_model_can_do_is_refused(client: Client) -> None:
    with pytest.raises(RequestFailed, match="no loaded model can do translation"):
        client.translate("a", tgt_lang="de")


def test_what_is_loaded_is_listed(client: Client) -> None:
    assert [card.name for card in client.models()] == ["gpt", "org/bert"]


def test_an_adapter_is_chosen_by_name_as_a_model_is() -> None:
    engine = FakeEngine(cards=(replace(DECODER, adapters=("sql",)),))
    with live_server(create_app(engine)) as url, Client(url) as client:
        assert [(card.name, card.parent) for card in client.models()] == [("gpt", None), ("sql", "gpt")]
        client.generate("a", model="sql")
        client.chat("a", model="sql")
    assert [asked.model for asked in engine.asked] == ["sql", "sql"]


def test_probes_tell_the_truth(client: Client, engine: FakeEngine) -> None:
    assert client.health()
    assert client.ready()
    engine.refusal = NotReady("still loading")
    assert not client.ready()


def test_refusals_arrive_as_what_they_are(client: Client, engine: FakeEngine) -> None:
    with pytest.raises(InvalidRequest, match="`inputs` cannot be empty"):
        client.generate("")
    with pytest.raises(InvalidRequest, match="no mask token"):
        client.fill_mask("no mask")
    with pytest.raises(NotFound, match="not loaded"):
        client.chat("a", model="other")
    engine.refusal = Overloaded(1.5)
    with pytest.raises(ClientOverloaded) as caught:
        list(client.stream("a"))
    assert caught.value.retry_after_s == 1.5
    engine.refusal = NotReady("still loading")
    with pytest.raises(ClientNotReady, match="still loading"):
        client.chat("a")


@pytest.mark.parametrize("method", ["stream", "stream_chat"])
def test_a_failure_in_mid_stream_raises_after_what_came(
    client: Client, engine: FakeEngine, method: str
) -> None:
    engine.failure, engine.fails_at = EngineFailed("the device is gone"), 1
    heard: list[Piece] = []
    with pytest.raises(RequestFailed, match="the device is gone") as caught:
        heard.extend(iter(client.stream("a") if method == "stream" else client.stream_chat("a")))
    assert type(caught.value) is ServerFailed
    assert "".join(piece.text for piece in heard) == "Hel"


def test_leaving_a_stream_stops_the_work(client: Client, engine: FakeEngine) -> None:
    engine.pauses_s = {2: 60.0}
    with client.stream("a") as stream:
        assert next(stream).text == "Hel"
        assert engine.running == 1
    deadline = time.monotonic() + 10
    while engine.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.running == 0


@pytest.mark.parametrize("dialect", [tgi, openai_completions], ids=["tgi", "openai"])
def test_the_load_generator_is_understood(url: str, dialect: type) -> None:
    plan = Plan(url=url, dialect=dialect("gpt"), streams=4, requests=8, tokens=3, fill_mask_every_ms=2)
    report = summarize(asyncio.run(measure(plan)))
    assert (report.ok, report.short, report.output_tokens) == (8, 0, 24)
    assert report.fill_mask_ok >= 1
    assert report.failures == {}
