"""A GGUF file's metadata gives back the tokenizer that it was made of."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf import TokenType
from tokenizers import Tokenizer as Backend

from server.text.errors import TokenizerUnusable
from server.text.gguf_metadata import read_metadata
from server.text.presplit import EXPRESSIONS, presplit
from server.text.tokenizer import load_tokenizer
from tests.text.vocabularies import byte_level, sentence_piece, word_piece

TEXTS = [
    "the quick brown fox",
    "  Paris  is 1234 capital\n\n of France. ",
    "naïve café 日本語 🙂👍🏽 e\u0301 ∂",
    "",
]


def in_order(backend: Backend) -> list[str]:
    return [token for token, _ in sorted(backend.get_vocab().items(), key=lambda item: item[1])]


def write(path: Path, model: str, tokens: list[str], **facts: Any) -> Path:
    """`facts` are written as tokenizer.ggml.<name>."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    for name, value in facts.items():
        key = f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def types(tokens: list[str], control: int) -> list[int]:
    return [TokenType.CONTROL if id_ < control else TokenType.NORMAL for id_ in range(len(tokens))]


def write_byte_level(path: Path, pre: str = "gpt-2", **facts: Any) -> Path:
    tokens = in_order(byte_level())
    merges = [" ".join(merge) for merge in json.loads(byte_level().to_str())["model"]["merges"]]
    stated = {"eos_token_id": 2, "bos_token_id": 1, "token_type": types(tokens, 3), "merges": merges, **facts}
    return write(path, "gpt2", tokens, pre=pre, **stated)


@pytest.mark.parametrize("text", [*TEXTS, "<|im_start|>fox<|im_end|>"])
def test_byte_level_bpe_comes_back(tmp_path: Path, text: str) -> None:
    tokenizer = load_tokenizer(write_byte_level(tmp_path / "t.gguf"))
    assert tokenizer.encode(text) == byte_level().encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == byte_level().decode(byte_level().encode(text).ids)
    assert tokenizer.eos_ids == {2}


@pytest.mark.parametrize("text", TEXTS)
def test_sentence_piece_bpe_comes_back_from_its_scores(tmp_path: Path, text: str) -> None:
    tokens = in_order(sentence_piece())
    scores = [-float(id_) for id_ in range(len(tokens))]  # as SentencePiece numbers merges
    path = write(tmp_path / "t.gguf", "llama", tokens, scores=scores, unknown_token_id=0, bos_token_id=1)
    tokenizer = load_tokenizer(path)
    expected = sentence_piece().encode(text).ids
    assert tokenizer.encode(text) == [1, *expected]  # a SentencePiece text begins with BOS
    assert tokenizer.decode(expected) == sentence_piece().decode(expected)


@pytest.mark.parametrize("text", TEXTS)
def test_word_piece_comes_back(tmp_path: Path, text: str) -> None:
    written = [
        token if token.startswith("[") else token.removeprefix("##") if "##" in token else f"\u2581{token}"
        for token in in_order(word_piece())
    ]
    facts = {"cls_token_id": 2, "seperator_token_id": 3, "mask_token_id": 4, "unknown_token_id": 1}
    tokenizer = load_tokenizer(write(tmp_path / "t.gguf", "bert", written, **facts))
    assert tokenizer.encode(f"{text} [MASK]") == word_piece().encode(f"{text} [MASK]").ids
    assert tokenizer.mask_token == "[MASK]"
    assert tokenizer.eos_ids == frozenset()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, []),
        ({"add_bos_token": True}, [1]),
        ({"add_bos_token": True, "add_eos_token": True}, [1, 2]),
        ({"pre": "llama-bpe"}, [1]),
        ({"pre": "llama-bpe", "add_bos_token": False}, []),
    ],
)
def test_the_file_says_what_surrounds_a_text(
    tmp_path: Path, facts: dict[str, Any], expected: list[int]
) -> None:
    assert load_tokenizer(write_byte_level(tmp_path / "t.gguf", **facts)).encode("") == expected


def test_every_end_that_the_file_names_ends_a_text(tmp_path: Path) -> None:
    assert load_tokenizer(write_byte_level(tmp_path / "t.gguf", eot_token_id=0)).eos_ids == {0, 2}


def test_a_users_own_token_stays_whole_and_is_text(tmp_path: Path) -> None:
    kinds = types(in_order(byte_level()), 3)
    kinds[1] = TokenType.USER_DEFINED
    tokenizer = load_tokenizer(write_byte_level(tmp_path / "t.gguf", token_type=kinds, bos_token_id=0))
    assert tokenizer.encode("<|im_start|>") == [1]
    assert not tokenizer.is_special(1)
    assert tokenizer.decode([1]) == "<|im_start|>"


def test_an_unknown_pre_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerUnusable, match=r"t\.gguf.*pre-tokenizer is 'kimi-k2'; known are .*smollm"):
        load_tokenizer(write_byte_level(tmp_path / "t.gguf", pre="kimi-k2"))


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerUnusable, match="model is 'rwkv'; supported are gpt2, llama and bert"):
        load_tokenizer(write(tmp_path / "t.gguf", "rwkv", ["a"]))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerUnusable, match=r"lacks tokenizer\.ggml\.merges"):
        load_tokenizer(write(tmp_path / "t.gguf", "gpt2", ["a"], pre="gpt-2"))


def test_a_broken_chat_template_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("bert")
    writer.add_token_list(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    writer.add_uint32("tokenizer.ggml.unknown_token_id", 1)
    writer.add_chat_template("{% if %}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(TokenizerUnusable, match="Expected an expression"):
        load_tokenizer(path)


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04 no model", b"GGUF"])
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.gguf").write_bytes(content)
    with pytest.raises(TokenizerUnusable, match=r"t\.gguf"):
        load_tokenizer(tmp_path / "t.gguf")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerUnusable, match=r"nowhere\.gguf.*No such file"):
        load_tokenizer(tmp_path / "nowhere.gguf")


def test_metadata_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf", "gpt2", ["a", "b"], pre="gpt-2", scores=[0.5, 1.5]).read_bytes()
    cut = tmp_path / "cut.gguf"
    for end in range(len(whole) - 32):  # the writer pads to 32 bytes
        cut.write_bytes(whole[:end])
        with pytest.raises(TokenizerUnusable, match=r"cut\.gguf"):
            read_metadata(cut)


@pytest.mark.parametrize("kind", [4, 8, 9, 99])
def test_a_count_beyond_the_file_is_refused_at_once(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "huge.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, kind, 2**61))
    with pytest.raises(TokenizerUnusable, match=r"huge\.gguf"):
        read_metadata(path)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("gpt-2", ["It", "'s", "Ġ12345", "Ġ", "Ġok", "!!"]),
        ("smollm", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġ", "Ġok", "!!"]),
        ("llama-bpe", ["It", "'s", "Ġ", "123", "45", "Ġ", "Ġok", "!!"]),
        ("qwen2", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġ", "Ġok", "!!"]),
        ("tekken", ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġ", "Ġok", "!!"]),
        ("gpt-4o", ["It's", "Ġ", "123", "45", "Ġ", "Ġok", "!!"]),
        ("default", ["It", "'", "s", "Ġ", "123", "45", "Ġ", "Ġok", "!!"]),
        ("falcon", ["It", "'", "s", "Ġ", "123", "45", "Ġ", "Ġok", "!!"]),
    ],
)
def test_each_name_cuts_in_its_own_way(name: str, pieces: list[str]) -> None:
    assert [piece for piece, _ in presplit(name).pre_tokenize_str("It's 12345  ok!!")] == pieces


@pytest.mark.parametrize("name", sorted(EXPRESSIONS))
def test_no_cut_loses_a_character(name: str) -> None:
    text = "Ünï ½ 12345\r\n\n  x's\t日本 🙂 .,; "
    pieces = [text[start:stop] for _, (start, stop) in presplit(name).pre_tokenize_str(text)]
    assert "".join(pieces) == text
