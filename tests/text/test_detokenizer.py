"""Streamed text is the text: nothing is lost, nothing is doubled, and no half character is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.detokenizer import Detokenizer
from server.text.tokenizer import Tokenizer
from server.text.vocabulary import Vocabulary
from tests.text.vocabularies import KINDS, byte_level, tokenizer, word_piece

TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from("ab the,.'\n 🙂👍🏽é日本\u0301\u200d\u2581"),
        st.characters(codec="utf-8"),
    ),
    max_size=40,
)
EVERY_KIND = pytest.mark.parametrize("kind", sorted(KINDS))


def stream(kind: str, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer(kind), prompt or [])
    return [*(detokenizer.push(id_) for id_ in ids), detokenizer.flush()]


@EVERY_KIND
@given(text=TEXTS)
@settings(max_examples=150, deadline=None)
def test_the_pieces_of_an_encoded_text_are_its_decoding(kind: str, text: str) -> None:
    ids = tokenizer(kind).encode(text)
    expected = KINDS[kind]().decode(ids, skip_special_tokens=True)
    assert "".join(stream(kind, ids)) == tokenizer(kind).decode(ids) == expected


@EVERY_KIND
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_pieces_of_any_tokens_are_their_decoding(kind: str, data: st.DataObject) -> None:
    size = tokenizer(kind).vocab_size
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=30))
    assert "".join(stream(kind, ids)) == tokenizer(kind).decode(ids)


@given(ids=st.lists(st.integers(0, byte_level().get_vocab_size() - 1), max_size=30))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_text_decode_as_the_tokenizers_library_decodes_them(ids: list[int]) -> None:
    assert tokenizer("byte level").decode(ids) == byte_level().decode(ids)


@given(ids=st.lists(st.integers(0, word_piece().get_vocab_size() - 1), max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_word_pieces_decode_as_the_tokenizers_library_decodes_them(ids: list[int]) -> None:
    assert tokenizer("word piece").decode(ids) == word_piece().decode(ids)


@pytest.mark.parametrize("kind", ["byte level", "sentence piece"])
@given(text=st.text(alphabet="🙂👍🏽日本é\u0301 a", min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_no_piece_of_a_real_text_has_a_half_character(kind: str, text: str) -> None:
    assert not any("\ufffd" in piece for piece in stream(kind, tokenizer(kind).encode(text)))


@pytest.mark.parametrize("kind", ["byte level", "sentence piece"])
@given(before=TEXTS, after=TEXTS)
@settings(max_examples=100, deadline=None)
def test_after_a_prompt_comes_what_the_whole_text_adds_to_it(kind: str, before: str, after: str) -> None:
    ids = tokenizer(kind).encode(before + after)
    for cut in {0, len(ids) // 2, len(ids)}:
        prompt, rest = ids[:cut], ids[cut:]
        shown = tokenizer(kind).decode(prompt).rstrip("\ufffd")  # a character that the cut went through
        assert tokenizer(kind).decode(ids) == shown + "".join(stream(kind, rest, prompt))


def test_a_character_appears_with_its_last_byte() -> None:
    ids = tokenizer("byte level").encode("𝄞")
    assert stream("byte level", ids) == ["", "", "", "𝄞", ""]


def test_a_text_that_ends_within_a_character_ends_with_a_replacement() -> None:
    ids = tokenizer("byte level").encode("a𝄞")
    assert stream("byte level", ids[:-1])[-1] == "\ufffd"


def test_special_tokens_add_nothing_to_the_text() -> None:
    ids = tokenizer("byte level").encode("<|im_start|>fox<|im_end|>")
    assert "".join(stream("byte level", ids)) == "fox"


class CountingTokenizer(Tokenizer):
    spelled = 0

    def spell(self, id_: int, *, first: bool) -> bytes:
        self.spelled += 1
        return super().spell(id_, first=first)


def test_every_token_is_spelled_once_however_long_the_text() -> None:
    counting = CountingTokenizer(Vocabulary(backend=byte_level()))
    prompt = counting.encode("fox " * 50)
    detokenizer = Detokenizer(counting, prompt)
    for id_ in counting.encode("dog" * 300):
        detokenizer.push(id_)
    assert counting.spelled <= len(counting.encode("dog" * 300)) + 4  # and the end of the prompt
