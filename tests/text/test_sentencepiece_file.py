"""The reader of SentencePiece files agrees with SentencePiece, and says what is wrong with what is none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.sentencepiece import piece_backend
from server.text.sentencepiece_file import Algorithm, Kind, parse_piece_model, read_piece_model
from tests.text.pieces import SHAPES, processor, shape, train


@pytest.mark.parametrize("name", SHAPES)
def test_every_piece_is_read_with_its_score_and_its_kind(name: str) -> None:
    model, oracle = parse_piece_model(shape(name)), processor(shape(name))
    assert [piece.text for piece in model.pieces] == [oracle.id_to_piece(i) for i in range(len(oracle))]
    assert [piece.score for piece in model.pieces] == [oracle.get_score(i) for i in range(len(oracle))]
    kinds = [piece.kind for piece in model.pieces]
    assert kinds.index(Kind.UNKNOWN) == oracle.unk_id()
    assert [kind is Kind.CONTROL for kind in kinds] == [oracle.is_control(i) for i in range(len(oracle))]
    assert [kind is Kind.BYTE for kind in kinds] == [oracle.is_byte(i) for i in range(len(oracle))]


def test_the_settings_that_decide_over_a_cut_are_read() -> None:
    llama = parse_piece_model(shape("bpe, as LLaMA"))
    assert (llama.algorithm, llama.byte_fallback, llama.charsmap) == (Algorithm.BPE, True, b"")
    assert (llama.add_dummy_prefix, llama.remove_extra_whitespaces) == (True, False)
    plain = parse_piece_model(shape("unigram, no prefix"))
    assert (plain.algorithm, plain.byte_fallback, len(plain.charsmap) > 100_000) == (
        Algorithm.UNIGRAM,
        False,
        True,
    )
    assert (plain.add_dummy_prefix, plain.remove_extra_whitespaces) == (False, True)


def test_a_message_written_in_parts_is_one_and_the_last_of_its_numbers_counts() -> None:
    further = bytes([3 << 3 | 2, 4, 3 << 3, 1, 3 << 3, 0])  # add_dummy_prefix: true, false
    model = parse_piece_model(shape("unigram") + further)
    assert processor(shape("unigram") + further).encode("the", out_type=str)[0] != "\u2581the"
    assert not model.add_dummy_prefix
    assert model.charsmap == parse_piece_model(shape("unigram")).charsmap


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "char"}, "its model type is 4; supported are 1 (unigram) and 2 (BPE)"),
        ({"model_type": "word", "vocab_size": 100}, "its model type is 3"),
        ({"treat_whitespace_as_suffix": True}, "`treat_whitespace_as_suffix` is not implemented"),
        ({"denormalization_rule_tsv": "rules.tsv"}, "a denormalizer is not implemented"),
    ],
)
def test_what_is_not_implemented_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.tsv").write_text("61\t62\n")
    Path("spiece.model").write_bytes(train(**options))
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read_piece_model(Path("spiece.model"))
    assert str(raised.value).startswith("spiece.model is not a usable SentencePiece model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 unknown pieces among its 0, not one"),
        (b'{"model": 1}', "wire type 3 at byte 1"),
        (b"\x3d==", "a value of 4 bytes at byte 1 goes beyond the end"),
        (b"IQ== 0\nIg== 1\n", "it has 0 unknown pieces among its 0, not one"),  # tiktoken's
        (b"\x0a\x04\x0a\x02hi", "0 unknown pieces among its 1"),
        (b"\x0a\x02\x0a\x00", "one of its pieces is empty"),
        (b"\x0a\x05\x0a\x01a\x18\x07", "its piece 'a' is of the unknown type 7"),
        (b"\x0a\x03\x0a\x01\xff", "can't decode byte"),
        (b"\x0a\x08\x0a\x01a\x15\x00\x00\x80\x7f", "its piece 'a' has the score inf"),
        (b"\x0a\x05\x0a\x01a\x18\x02" + b"\x0a\x03\x0a\x01b" * 2, "2 of its pieces are 'b'"),
        (
            b"\x0a\x05\x0a\x01a\x18\x02" + b"\x1a\x06\x12\x04abcd",
            "its normalisation rules are cut or garbled",
        ),
        (b"\x08\x01", "a number stands where text is expected"),
        (b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", "a number that does not end, at byte 1"),
        (b"\x00\x01", "field 0 at byte 1"),
    ],
)
def test_a_file_that_is_no_model_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_piece_model(tmp_path / "spiece.model")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"spiece\.model cannot be read \(No such file"):
        read_piece_model(tmp_path / "spiece.model")


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_file_cut_or_garbled_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    model = bytearray(shape("bpe, as LLaMA"))
    for place in data.draw(st.lists(st.integers(0, len(model) - 1), min_size=1, max_size=3)):
        model[place] = data.draw(st.integers(0, 255))
    garbled = bytes(model[: data.draw(st.integers(0, len(model)))])
    try:
        assert piece_backend(parse_piece_model(garbled)).encode("the License").ids
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
