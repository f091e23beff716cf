"""Backends cut text as SentencePiece itself does, whatever the model and however strange the text."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from server.text.detokenizer import Detokenizer
from server.text.sentencepiece import Prefix, piece_backend
from server.text.sentencepiece_file import Kind, Piece, parse_piece_model
from server.text.tokenizer import Tokenizer
from server.text.vocabulary import Vocabulary
from tests.text.pieces import SHAPES, processor, shape, train, with_kinds

STRANGE = [
    "",
    " ",
    "Hello, World!  It's 3.14159; isn't IT?",
    "def f(x):\n    return x ** 2  # square\n",
    "naïve café — 日本語のテキスト, العربية, हिन्दी 한국어",
    "e\u0301 か\u3099 ｶﾞ \u1112\u1161\u11ab",  # letters with marks, of two characters and of three
    "e\u0323\u0302 ﬁ\u0302 X\u0301 1\ufe0f\u20e3",  # and some that no rule makes one of
    "\u2581a \u2581 b\u2581",
    "a\u200b\u200cb\ufeff \u3000\u00a0c\u2028d\ufffd",
    "\r\n\ta\x07b\x00",
    "\u0130STANBUL Straße ΟΔΟΣ ǅ Ⅻ ① \uff5e",
    "  aaaa aaaaa ----- \n\n\n   x",
    "<0x41> ``quoted'' foo<sep> x\u2581foo①",
    "\U0010ffff\ue000 𝄞E🏽 👨‍👩‍👧",
]
LETTERS = st.one_of(
    st.sampled_from(
        [*"ab the,.'1", "\n", "\t", "  ", "日", "🙂", "\u200d", "\u2581", "か\u3099", "ﬁ", "X\u0301"]
    ),
    # Without marks in an order that is not Unicode's own, which normal form C sorts, SentencePiece not,
    # and without noncharacters.
    st.characters(codec="utf-8", exclude_categories=["Mn", "Cc", "Cn"]),
)
EVERY_SHAPE = pytest.mark.parametrize("name", SHAPES)


@cache
def backend(name: str) -> Backend:
    return piece_backend(parse_piece_model(shape(name)))


@cache
def oracle(name: str) -> Any:
    return processor(shape(name))


@EVERY_SHAPE
@pytest.mark.parametrize("text", STRANGE)
def test_strange_texts_are_cut_as_sentencepiece_cuts_them(name: str, text: str) -> None:
    assert backend(name).encode(text).ids == oracle(name).encode(text)


@EVERY_SHAPE
@given(text=st.lists(LETTERS, max_size=30).map("".join))
@settings(max_examples=60, deadline=None)
def test_any_text_is_cut_as_sentencepiece_cuts_it(name: str, text: str) -> None:
    assert backend(name).encode(text).ids == oracle(name).encode(text)


@EVERY_SHAPE
@pytest.mark.parametrize("text", [text for text in STRANGE if not text.startswith("\u2581")])
def test_what_was_cut_is_put_together_as_sentencepiece_does_it(name: str, text: str) -> None:
    ids = oracle(name).encode(text)
    if oracle(name).unk_id() in ids:  # SentencePiece writes U+2047 for it, transformers its name
        ids = ids[: ids.index(oracle(name).unk_id())]
    tokenizer = Tokenizer(Vocabulary(backend=backend(name)))
    detokenizer = Detokenizer(tokenizer)
    streamed = "".join([*map(detokenizer.push, ids), detokenizer.flush()])
    assert streamed == tokenizer.decode(ids) == oracle(name).decode(ids)


@pytest.mark.parametrize("prefix", Prefix)
def test_special_tokens_part_a_text_and_what_follows_has_a_space_only_if_asked_for(prefix: Prefix) -> None:
    parted = piece_backend(parse_piece_model(shape("bpe, as LLaMA")), prefix=prefix)
    parted.add_special_tokens(["<s>"])
    before, after = (oracle("bpe, as LLaMA").encode(text, out_type=str) for text in ("the", " work"))
    expected = [*before, "<s>", *(after if prefix is Prefix.EVERY_STRETCH else after[1:])]
    assert after[0] == "\u2581"
    assert parted.encode("the<s> work").tokens == expected


def test_tokens_know_their_place_in_a_text_with_marks_and_many_spaces() -> None:
    text = "  the  cafe\u0301 <tag>"
    encoding = backend("unigram").encode(text)
    shown = [text[start:stop].strip() for start, stop in encoding.offsets]
    assert [token.lstrip("\u2581") for token in encoding.tokens] == [
        "é" if piece == "e" and token.endswith("é") else piece
        for piece, token in zip(shown, encoding.tokens, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("unigram", Kind.USER_DEFINED),
        ("unigram", Kind.UNUSED),
        ("unigram", Kind.CONTROL),
        ("bpe, as Gemma", Kind.USER_DEFINED),
        ("bpe", Kind.CONTROL),
    ],
)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_pieces_of_every_kind_are_taken_or_not_as_sentencepiece_takes_them(
    name: str, kind: Kind, data: st.DataObject
) -> None:
    pieces = enumerate(parse_piece_model(shape(name)).pieces)
    longer = [place for place, piece in pieces if piece.kind is Kind.NORMAL and len(piece.text) > 1]
    changed = data.draw(st.sets(st.sampled_from(longer), max_size=60))
    model = with_kinds(shape(name), changed, kind)
    cut = piece_backend(parse_piece_model(model))
    for text in ("Unless required by applicable law or agreed to in writing", "naïve  café 日本語 x\u2581y"):
        assert cut.encode(text).ids == processor(model).encode(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["unigram", "unigram, nfkc", "bpe, as LLaMA"])
@pytest.mark.parametrize("run", [" ", "\u2581", "x\u0301", "\u200d", "a"])
def test_a_long_run_of_anything_costs_no_more_than_its_length(name: str, run: str) -> None:
    text = "x" + run * 30_000 + "x"
    assert backend(name).encode(text).ids == oracle(name).encode(text)


def test_a_word_of_the_users_own_is_one_token_though_the_rules_would_change_it() -> None:
    model = train(user_defined_symbols=["①", "<sep>"])
    cut = processor(model).encode("a①b<sep>c", out_type=str)
    assert "①" in cut
    assert "<sep>" in cut
    assert piece_backend(parse_piece_model(model), prefix=Prefix.TEXT).encode("a①b<sep>c").tokens == cut


def test_pieces_that_go_across_a_space_are_found() -> None:
    tokens = backend("unigram, across words").encode("subject to the terms of the License").tokens
    assert any("\u2581" in token[1:] for token in tokens)


def test_a_model_without_pieces_to_cut_into_is_refused() -> None:
    model = replace(parse_piece_model(shape("unigram")), pieces=(Piece(text="<unk>", kind=Kind.UNKNOWN),))
    with pytest.raises(ValueError, match="no pieces to cut text into"):
        piece_backend(model)


def test_pieces_of_bpe_that_are_not_used_are_refused() -> None:
    model = parse_piece_model(shape("bpe"))
    unused = replace(model, pieces=(*model.pieces, Piece(text="unused", kind=Kind.UNUSED)))
    with pytest.raises(ValueError, match="BPE with unused pieces"):
        piece_backend(unused)
