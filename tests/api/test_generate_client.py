"""`huggingface_hub.InferenceClient` reads all that `/generate` can tell, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from huggingface_hub import InferenceClient, TextGenerationInputGrammarType
from huggingface_hub.errors import ValidationError

from server.api.app import create_app
from server.request import GenerateRequest, Grammar, GrammarKind
from tests.api.live import live_server
from tests.fakes import FakeEngine


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(others=(("bet", "ter"),), logprobs=(-0.5, -0.25))


@pytest.fixture(scope="module")
def client(engine: FakeEngine) -> Iterator[InferenceClient]:
    with live_server(create_app(engine)) as url:
        yield InferenceClient(f"{url}/generate")


def test_best_of(client: InferenceClient) -> None:
    answer = client.text_generation("hi", details=True, best_of=2, do_sample=True, seed=7)
    assert answer.generated_text == "better"
    assert answer.details is not None
    assert answer.details.best_of_sequences is not None
    (other,) = answer.details.best_of_sequences
    assert (other.generated_text, other.seed, other.generated_tokens) == ("Hello!", 7, 3)


def test_the_scores_of_a_prompt_and_the_most_probable_tokens(client: InferenceClient) -> None:
    answer = client.text_generation("a b", details=True, decoder_input_details=True, top_n_tokens=2)
    assert answer.details is not None
    assert [token.logprob for token in answer.details.prefill] == [None, -1.0]
    assert answer.details.top_tokens is not None
    assert len(answer.details.top_tokens) == 3


def test_the_most_probable_tokens_of_a_stream(client: InferenceClient) -> None:
    first, *_ = client.text_generation("hi", details=True, stream=True, top_n_tokens=2)
    assert first.top_tokens is not None
    assert [token.text for token in first.top_tokens] == ["Hel", "Hel~"]


def test_a_grammar(client: InferenceClient, engine: FakeEngine) -> None:
    client.text_generation("hi", grammar=TextGenerationInputGrammarType(type="regex", value="[0-9]+"))
    request = engine.asked[-1]
    assert isinstance(request, GenerateRequest)
    assert request.grammar == Grammar(kind=GrammarKind.REGEX, source="[0-9]+")


def test_a_contradiction_is_a_validation_error(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="you must use sampling when `best_of` is > 1"):
        client.text_generation("hi", best_of=2)
