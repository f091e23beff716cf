"""Whatever is drawn from what a grammar allows, the text is what the grammar says."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llguidance")  # of the extra `structured`

from models.errors import SourceUnreachable
from models.weights.sources import SMOLLM2, resolve
from server.execution.grammars.matcher import ALLOWANCE_PER_TOKEN_S, ALLOWANCE_S, CompiledGrammar
from server.execution.grammars.tokens import Tokens
from server.execution.sampling import Row, sample
from server.grammar import GrammarError
from server.request import Grammar, GrammarKind, Sampling
from server.settings import Settings
from server.text.tokenizer import Tokenizer, load_tokenizer
from server.text.vocabulary import Vocabulary
from tests.execution.walks import bits, walk, written
from tests.text import vocabularies

END, TURN = 0, 2  # <|endoftext|> and <|im_end|> of the byte-level vocabulary
SEEDS = range(12)


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "SmolLM2":
        return load_tokenizer(_smollm2())
    ends = {"byte level": END, "sentence piece": 2}
    backend = vocabularies.KINDS[kind]()
    return Tokenizer(Vocabulary(backend=backend, stop_ids=frozenset({ends[kind]})))


def _smollm2() -> Path:
    try:
        return resolve(SMOLLM2.name, cache=Settings().cache)
    except SourceUnreachable as error:
        pytest.skip(str(error))


@cache
def tokens_of(kind: str) -> Tokens:
    tokenizer = tokenizer_of(kind)
    return Tokens(tokenizer, tokenizer.vocab_size + 7)  # models pad: 7 makes it no multiple of 32


@pytest.fixture(params=["byte level", "sentence piece", pytest.param("SmolLM2", marks=pytest.mark.defaults)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def compiled(
    source: str | dict[str, Any], of: GrammarKind = GrammarKind.EBNF, kind: str = "byte level"
) -> CompiledGrammar:
    text = source if isinstance(source, str) else json.dumps(source)
    return CompiledGrammar(Grammar(kind=of, source=text), tokens_of(kind))


def spelled(allowed: Any, kind: str = "byte level") -> set[bytes]:
    tokenizer = tokenizer_of(kind)
    return {tokenizer.spell(token, first=False) for token in bits(allowed)}


def after(text: str, grammar: CompiledGrammar, stop_tokens: frozenset[int] | None = None) -> Any:
    """The matcher that has followed `text`."""
    return grammar.matcher(stop_tokens, tokenizer_of("byte level").encode(text))


# --- laws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        r"[a-z]{2,8}@[a-z]{2,6}\.(com|org)",
        r"\([0-9]{3}\) [0-9]{3}-[0-9]{4}",
        r"(ja|nein|日本|🙂|é){1,5}!?",
        r"/[/]?\"x\\{2}(a|b)*c",
    ],
)
def test_a_walk_through_a_regular_expression_matches_it(pattern: str, kind: str) -> None:
    grammar = compiled(pattern, GrammarKind.REGEX, kind)
    for seed in SEEDS:
        text, matcher = walk(grammar, tokenizer_of(kind), seed, free=12)
        assert re.fullmatch(pattern, text), text
        assert matcher.complete


def test_a_walk_through_choices_is_one_of_them_exactly(kind: str) -> None:
    choices = ["yes", "no", "no way", " spaced ", "a\nb", 'quo"te\\', "naïve 🙂", "no", "<|im_end|>"]
    grammar = compiled(json.dumps(choices), GrammarKind.CHOICE, kind)
    texts = {walk(grammar, tokenizer_of(kind), seed)[0] for seed in range(80)}
    assert texts <= set(choices)
    assert len(texts) >= 6


def is_order(text: str) -> bool:
    order = json.loads(text)
    return (
        set(order) == {"name", "tags", "kind", "count", "paid"}
        and isinstance(order["name"], str)
        and len(order["name"]) <= 12
        and isinstance(order["tags"], list)
        and 1 <= len(order["tags"]) <= 3
        and all(re.fullmatch("[a-c]{1,4}", tag) for tag in order["tags"])
        and order["kind"] in ("new", 'o"ld', None)
        and isinstance(order["count"], int)
        and -5 <= order["count"] <= 120
        and isinstance(order["paid"], bool)
    )


ORDER = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {
            "type": "array",
            "items": {"type": "string", "pattern": "^[a-c]{1,4}$"},
            "minItems": 1,
            "maxItems": 3,
        },
        "kind": {"enum": ["new", 'o"ld', None]},
        "count": {"type": "integer", "minimum": -5, "maximum": 120},
        "paid": {"type": "boolean"},
    },
    "required": ["name", "tags", "kind", "count", "paid"],
    "additionalProperties": False,
}


def test_a_walk_through_a_schema_satisfies_it(kind: str) -> None:
    grammar = compiled(ORDER, GrammarKind.JSON_SCHEMA, kind)
    for seed in SEEDS:
        text, _ = walk(grammar, tokenizer_of(kind), seed, free=200)
        assert is_order(text), text


def test_any_object_is_json_and_nothing_else(kind: str) -> None:
    grammar = compiled({"type": "object"}, GrammarKind.JSON_SCHEMA, kind)
    objects = [json.loads(walk(grammar, tokenizer_of(kind), seed)[0]) for seed in SEEDS]
    assert all(isinstance(one, dict) for one in objects)
    assert any(objects)


def test_a_walk_through_rules_is_a_sentence_of_them(kind: str) -> None:
    grammar = compiled('start: sum\nsum: item | sum "+" item\nitem: "(" sum ")" | /[1-9][0-9]?/', kind=kind)
    for seed in SEEDS:
        text, _ = walk(grammar, tokenizer_of(kind), seed, free=20)
        assert re.fullmatch(r"[0-9+()]+", text)
        assert eval(text) > 0


@pytest.mark.parametrize("text", ["aé🙂z", "a", "a日本z"])
def test_characters_that_no_single_token_spells_are_allowed_byte_by_byte(text: str, kind: str) -> None:
    grammar = compiled(json.dumps([text]), GrammarKind.CHOICE, kind)
    assert {walk(grammar, tokenizer_of(kind), seed)[0] for seed in SEEDS} == {text}


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), st.integers(0, 1 << 32))
def test_any_string_can_be_a_choice_and_a_constant(text: str, seed: int) -> None:
    tokenizer = tokenizer_of("byte level")
    choice = compiled(json.dumps([text]), GrammarKind.CHOICE)
    assert walk(choice, tokenizer, seed)[0] == text
    constant = compiled({"const": {text: text}}, GrammarKind.JSON_SCHEMA)
    assert json.loads(walk(constant, tokenizer, seed)[0]) == {text: text}


# --- the end of a text -----------------------------------------------------------------------------------


def test_a_text_may_end_where_the_grammar_does_and_only_there() -> None:
    grammar = compiled("ab?", GrammarKind.REGEX)
    assert spelled(grammar.matcher().allowed()) == {b"a"}
    assert spelled(after("a", grammar).allowed()) == {b"b", b"<|endoftext|>"}
    assert spelled(after("ab", grammar).allowed()) == {b"<|endoftext|>"}


def test_a_matcher_says_when_the_text_is_complete_and_when_nothing_can_follow() -> None:
    grammar = compiled("ab?", GrammarKind.REGEX)
    states = [(one.complete, one.over) for one in (after(text, grammar) for text in ("", "a", "ab"))]
    assert states == [(False, False), (True, False), (True, True)]


def test_a_stop_token_ends_the_text() -> None:
    matcher = after("a", compiled("ab?", GrammarKind.REGEX))
    matcher.advance(END)
    assert (matcher.over, matcher.complete, matcher.failure) == (True, True, None)
    assert bits(matcher.allowed()) == [END]


def test_every_stop_token_of_a_request_may_end_the_text() -> None:
    matcher = after("ab", compiled("ab?", GrammarKind.REGEX), frozenset({END, TURN, 10_000}))
    assert bits(matcher.allowed()) == [END, TURN]


def test_a_text_whose_end_is_ignored_goes_on_while_it_can_and_then_ends_all_the_same() -> None:
    grammar = compiled("ab?", GrammarKind.REGEX)
    assert spelled(after("a", grammar, frozenset()).allowed()) == {b"b"}
    over = after("ab", grammar, frozenset())
    assert over.over
    assert bits(over.allowed()) == [END]


def test_a_stop_token_that_the_grammar_needs_ends_the_text_short() -> None:
    (b,) = tokenizer_of("byte level").encode("b")
    matcher = after("a", compiled("ab", GrammarKind.REGEX), frozenset({b}))
    assert spelled(matcher.allowed()) == {b"b"}
    matcher.advance(b)
    assert (matcher.over, matcher.failure) == (True, None)


# --- what is never allowed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "of"),
    [
        (r"(.|\n)*", GrammarKind.REGEX),
        ('start: "<|im_end|>"', GrammarKind.EBNF),
        ('["<|endoftext|>"]', GrammarKind.CHOICE),
        ('{"type": "string"}', GrammarKind.JSON_SCHEMA),
    ],
)
def test_special_tokens_never_stand_within_a_text(source: str, of: GrammarKind, kind: str) -> None:
    tokenizer, tokens = tokenizer_of(kind), tokens_of(kind)
    matcher = compiled(source, of, kind).matcher()
    for _ in range(12):
        allowed = bits(matcher.allowed())
        ends = tokens.ends if matcher.complete else frozenset[int]()
        assert {token for token in allowed if tokenizer.is_special(token)} == ends
        within = [token for token in allowed if token not in ends]
        if not within:
            break
        matcher.advance(within[-1])


def test_ids_beyond_the_tokenizer_are_never_allowed(kind: str) -> None:
    tokenizer, tokens = tokenizer_of(kind), tokens_of(kind)
    allowed = compiled(r"(.|\n)*", GrammarKind.REGEX, kind).matcher().allowed()
    assert max(bits(allowed)) < tokenizer.vocab_size < tokens.size


def test_blanks_between_the_signs_of_json_are_bounded() -> None:
    grammar = compiled({"type": "object"}, GrammarKind.JSON_SCHEMA)
    for blanks in ("", " ", "\n", "\n" + 32 * " ", "\n\t\t"):
        assert after("{" + blanks + '"a":' + blanks + "1}", grammar).complete, repr(blanks)
    for blanks in ("  ", "\n\n", "\n" + 33 * " ", "\t", " \n"):
        assert after("{" + blanks + '"a": 1}', grammar).failure, repr(blanks)
    assert after(" {}", grammar).failure
    assert after("{} ", grammar).failure


def test_a_schema_cannot_ask_for_blanks_without_end() -> None:
    schema = {"type": "object", "x-guidance": {"whitespace_pattern": "[ ]+"}}
    assert after('{  "a": 1}', compiled(schema, GrammarKind.JSON_SCHEMA)).failure


# --- the mask --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 4, 20, 64])
def test_a_mask_has_a_bit_for_each_logit(padding: int) -> None:
    tokenizer = tokenizer_of("byte level")
    size = tokenizer.vocab_size + padding
    tokens = Tokens(tokenizer, size)
    (a,) = tokenizer.encode("a")
    mask = CompiledGrammar(Grammar(kind=GrammarKind.REGEX, source="a"), tokens).matcher().allowed()
    assert (str(mask.dtype), tuple(mask.shape)) == ("torch.int32", (-(-size // 32),))
    assert bits(mask) == [a]


def test_a_token_is_bit_t_mod_32_of_word_t_div_32() -> None:
    tokens = tokens_of("byte level")
    for token in (0, 31, 32, 63, tokens.size - 1):
        mask = tokens.mask([token])
        expected = [0] * len(mask)
        expected[token // 32] = 1 << token % 32 if token % 32 < 31 else -(1 << 31)
        assert mask.tolist() == expected


def test_a_mask_stays_as_it_is_when_the_matcher_goes_on() -> None:
    matcher = compiled("ab", GrammarKind.REGEX).matcher()
    first = matcher.allowed()
    matcher.advance(tokenizer_of("byte level").encode("a")[0])
    assert spelled(matcher.allowed()) == {b"b"}
    assert spelled(first) == {b"a"}


@torch.inference_mode()
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.0), Sampling(top_k=5, top_p=0.5)])
def test_what_the_sampler_draws_is_what_the_grammar_says(sampling: Sampling) -> None:
    grammar, size = compiled(ORDER, GrammarKind.JSON_SCHEMA), tokens_of("byte level").size
    for seed in range(3):
        generator, matcher, tokens = torch.Generator().manual_seed(seed), grammar.matcher(), [7]
        while not matcher.over:
            row = Row(sampling=replace(sampling, seed=seed), tokens=tokens, allowed=matcher.allowed())
            (drawn,) = sample(3 * torch.randn(1, size, generator=generator), [row])
            tokens = [*tokens, drawn.scored.token]
            matcher.advance(tokens[-1])
        assert is_order(written(tokenizer_of("byte level"), tokens[1:]))


# --- state -----------------------------------------------------------------------------------------------


def test_a_matcher_made_anew_from_the_tokens_is_where_the_old_one_was() -> None:
    grammar, tokenizer = compiled(ORDER, GrammarKind.JSON_SCHEMA), tokenizer_of("byte level")
    output = tokenizer.encode('{"name": "fox", "tags": ["a", "bc"], "kind": null, "count": 7, "paid": true}')
    followed = grammar.matcher()
    for length, token in enumerate(output):
        again = grammar.matcher(output=output[:length])
        assert again.allowed().tolist() == followed.allowed().tolist()
        followed.advance(token)
    assert followed.complete


def test_texts_of_one_grammar_do_not_know_of_each_other() -> None:
    grammar = compiled("ab?", GrammarKind.REGEX)
    one, other = after("ab", grammar), grammar.matcher()
    assert one.over
    assert spelled(other.allowed()) == {b"a"}


def test_a_token_that_was_not_allowed_is_a_failure_that_ends_the_text() -> None:
    matcher = after("b", compiled("ab?", GrammarKind.REGEX))
    assert matcher.failure is not None
    assert "grammar" in matcher.failure
    assert matcher.over
    assert bits(matcher.allowed()) == [END]


def test_a_grammar_that_gets_slower_with_every_token_is_given_up_in_time() -> None:
    matcher = compiled('start: s\ns: s s | s s s | "a" | ""').matcher()
    (a,) = tokenizer_of("byte level").encode("a")
    started, length = time.thread_time(), 0
    while not matcher.over:
        assert a in bits(matcher.allowed())
        matcher.advance(a)
        length += 1
    assert length > 20
    assert time.thread_time() - started < 10 * (ALLOWANCE_S + length * ALLOWANCE_PER_TOKEN_S)
    assert matcher.failure == "the grammar is too ambiguous: following it takes too long"
    assert bits(matcher.allowed()) == [END]


def test_a_long_text_of_a_plain_grammar_is_not_given_up() -> None:
    matcher = compiled("(a|b)*", GrammarKind.REGEX).matcher()
    (a,) = tokenizer_of("byte level").encode("a")
    for _ in range(3000):
        assert a in bits(matcher.allowed())
        matcher.advance(a)
    assert (matcher.failure, matcher.complete, matcher.over) == (None, True, False)


# --- vocabularies that cannot ----------------------------------------------------------------------------


class Letters:
    """A tokenizer of a few letters."""

    def __init__(self, letters: str, ends: frozenset[int]) -> None:
        self._letters, self.eos_ids = letters, ends

    def is_special(self, id_: int) -> bool:
        return False

    def spell(self, id_: int, *, first: bool) -> bytes:
        return self._letters[id_ : id_ + 1].encode()


def test_a_grammar_that_no_token_can_begin_is_refused() -> None:
    with pytest.raises(GrammarError, match="no text of this model's tokens"):
        CompiledGrammar(Grammar(kind=GrammarKind.REGEX, source="x"), Tokens(Letters("ab", frozenset({2})), 3))


def test_a_text_that_no_token_can_go_on_fails_and_ends() -> None:
    tokens = Tokens(Letters("ab", frozenset({2})), 3)
    matcher = CompiledGrammar(Grammar(kind=GrammarKind.REGEX, source="ax"), tokens).matcher(output=[0])
    assert bits(matcher.allowed()) == [2]
    assert matcher.over
    assert matcher.failure is not None
    assert matcher.failure.endswith("no text of this model's tokens matches it")


@pytest.mark.parametrize("ends", [frozenset[int](), frozenset({9})])
def test_a_model_that_never_ends_a_text_cannot_follow_a_grammar(ends: frozenset[int]) -> None:
    with pytest.raises(GrammarError, match="no token that ends a text"):
        Tokens(Letters("ab", ends), 3)
