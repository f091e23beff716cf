"""Which model a request means, by the names of models and of their adapters."""

from __future__ import annotations

import pytest

from server.engine.catalogue import Catalogue, Served
from server.errors import InvalidRequest, ModelNotFound
from server.request import Task
from server.text.tokenizer import Tokenizer
from server.text.vocabulary import Vocabulary
from tests.fakes import DECODER, ENCODER
from tests.text.vocabularies import byte_level


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(Vocabulary(backend=byte_level()))


@pytest.fixture
def catalogue(tokenizer: Tokenizer) -> Catalogue:
    models = Catalogue([Served(card=card, tokenizer=tokenizer) for card in (DECODER, ENCODER)])
    models.add("sql", "gpt", lora="sql@1", fingerprint="fp_sql")
    return models


def test_an_adapters_name_means_its_model_with_it(catalogue: Catalogue) -> None:
    for name, lora in (("sql", None), (None, "sql"), ("gpt", "sql"), ("sql", "sql")):
        found = catalogue.select(Task.GENERATE, name, lora)
        assert (found.name, found.lora) == ("gpt", "sql@1")
        assert (found.card.name, found.card.parent, found.card.fingerprint) == ("sql", "gpt", "fp_sql")
    assert catalogue.select(Task.GENERATE, None).lora is None
    assert [card.adapters for card in catalogue.cards] == [("sql",), ()]


def test_an_adapter_of_another_model_or_none_is_not_found(catalogue: Catalogue) -> None:
    for name, lora in (("org/bert", "sql"), (None, "poet"), (None, "gpt"), ("poet", None)):
        with pytest.raises(ModelNotFound, match=r"loaded: .*sql"):
            catalogue.named(name, lora)
    with pytest.raises(InvalidRequest, match="cannot do embed"):
        catalogue.select(Task.EMBED, "sql")


def test_what_is_removed_is_found_no_more(catalogue: Catalogue) -> None:
    assert catalogue.remove("sql").lora == "sql@1"
    assert [card.adapters for card in catalogue.cards] == [(), ()]
    with pytest.raises(ModelNotFound, match=r"`lora_name` is not loaded; loaded: none"):
        catalogue.remove("sql")
    catalogue.check_free("sql")


@pytest.mark.parametrize("name", ["gpt", "sql"])
def test_no_two_have_one_name(catalogue: Catalogue, name: str) -> None:
    with pytest.raises(InvalidRequest, match="is taken"):
        catalogue.check_free(name)


def test_the_model_of_an_adapter_may_be_left_out_where_there_is_but_one(
    catalogue: Catalogue, tokenizer: Tokenizer
) -> None:
    assert catalogue.adaptable("org/bert").name == "org/bert"
    with pytest.raises(InvalidRequest, match="for: gpt, org/bert"):
        catalogue.adaptable(None)
    for name in ("nobody", "sql"):
        with pytest.raises(ModelNotFound):
            catalogue.adaptable(name)
    assert Catalogue([Served(card=DECODER, tokenizer=tokenizer)]).adaptable(None).name == "gpt"
