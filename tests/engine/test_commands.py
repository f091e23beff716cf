"""What the engine process is sent for a request, and what is refused before it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers

from server.engine import commands
from server.engine.catalogue import Served
from server.engine.sources import needs_target_language
from server.errors import AnswerTooLong, ContextTooLong, EmptyInput, InvalidRequest
from server.request import GenerateRequest, Sampling
from server.text.generation_defaults import GenerationDefaults
from server.text.tokenizer import Tokenizer, load_tokenizer
from server.text.vocabulary import Vocabulary
from tests.fakes import DECODER, TRANSLATOR
from tests.text.folders import save_family
from tests.text.vocabularies import byte_level, tokenizer

TEXT = "the cat sat on the mat"
GREEDY = Sampling(temperature=0.0)
DECODES = Served(card=DECODER, tokenizer=tokenizer("byte level"))
TRANSLATES = Served(card=TRANSLATOR, tokenizer=tokenizer("byte level"))


def test_an_answer_of_an_encoder_decoder_follows_its_start_token_only() -> None:
    request = GenerateRequest(prompt=(5, 6, 7), sampling=GREEDY, max_new_tokens=63)
    command = commands.generate(1, TRANSLATES, request)
    assert (command.source, command.tokens, command.max_new_tokens) == ((5, 6, 7), [0], 63)


def test_too_long_an_answer_is_refused_without_counting_the_start_token() -> None:
    request = GenerateRequest(prompt=(5, 6, 7), sampling=GREEDY, max_new_tokens=64)
    with pytest.raises(AnswerTooLong, match=r"`max_new_tokens` must be <= 63 for this model\. Given: 64"):
        commands.generate(1, TRANSLATES, request)
    with pytest.raises(ContextTooLong, match="Given: 3 `inputs` tokens and 64 `max_new_tokens`"):
        commands.generate(1, DECODES, request)


def test_a_source_that_is_too_long_is_refused_with_its_length() -> None:
    request = GenerateRequest(prompt=(5,) * 33, sampling=GREEDY, max_new_tokens=1)
    with pytest.raises(ContextTooLong, match=r"`inputs` must have at most 32 tokens .* Given: 33"):
        commands.generate(1, TRANSLATES, request)


def test_a_source_of_which_no_token_is_left_is_empty() -> None:
    backend = Backend.from_str(byte_level().to_str())  # the other is everyone's
    backend.normalizer = normalizers.Strip()
    model = Served(card=TRANSLATOR, tokenizer=Tokenizer(Vocabulary(backend=backend)))
    for prompt in (" ", "", ()):
        with pytest.raises(EmptyInput):
            commands.generate(1, model, GenerateRequest(prompt=prompt, sampling=GREEDY))


def test_a_source_is_cut_at_its_end_and_never_down_to_its_special_tokens() -> None:
    model = Served(card=TRANSLATOR, tokenizer=tokenizer("word piece"))
    whole = commands.generate(1, model, GenerateRequest(prompt=TEXT, sampling=GREEDY)).source
    for truncate in (3, 4):
        request = GenerateRequest(prompt=TEXT, sampling=GREEDY, truncate=truncate)
        cut = commands.generate(1, model, request).source
        assert cut == (*whole[: truncate - 1], whole[-1])
    with pytest.raises(InvalidRequest, match="`truncate` must be above 2"):
        commands.generate(1, model, GenerateRequest(prompt=TEXT, sampling=GREEDY, truncate=2))


def test_a_target_language_is_needed_where_it_begins_the_answer_and_nothing_else_says_it(
    tmp_path: Path,
) -> None:
    nllb = Served(card=TRANSLATOR, tokenizer=load_tokenizer(save_family(tmp_path, "Nllb")))
    assert needs_target_language(nllb)
    assert not needs_target_language(replace(nllb, defaults=GenerationDefaults(forced_first=7)))
    assert not needs_target_language(TRANSLATES)
