"""Folders without tokenizer.json: each family's ids and what stands around a text are transformers' own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers

from server.text.detokenizer import Detokenizer
from server.text.errors import TokenizerUnusable
from server.text.folder import read_folder
from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.folders import FAMILIES, save_family, sentencepiece_of
from tests.text.pieces import processor, train
from tests.text.test_tokenizer import save_roberta_files

TEXTS = [
    "Hello, world!",
    "You may obtain a copy of the License at",
    "naïve café — 日本語のテキスト Ελληνικά",
    "emoji 🙂👍🏽 and it's",
    "tabs\tand\nnew lines",
    "unknown: 龍 ⟨x⟩",
    "",
]
SPECIAL = {
    "T5": "a <extra_id_0> b <extra_id_99>c</s>",
    "XLMRoberta": "a <mask> b</s>",
    "Camembert": "a <mask> b",
    "MBart": "a <mask> b fr_XX c",
    "MBart50": "a<mask> b",
    "Albert": "a [MASK] b[SEP]",
    "DebertaV2": "a [MASK] b[SEP]",
    "Llama": "a</s> b",
}
SAME_AS_TRANSFORMERS = sorted(set(FAMILIES) - {"Nllb"})  # of whose languages it knows none without its files


def oracle_of(folder: Path, family: str) -> Any:
    return getattr(transformers, f"{family}Tokenizer").from_pretrained(folder)


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join([*map(detokenizer.push, ids), detokenizer.flush()])


@pytest.mark.parametrize("family", SAME_AS_TRANSFORMERS)
def test_a_family_reads_and_writes_as_in_transformers(tmp_path: Path, family: str) -> None:
    oracle = oracle_of(save_family(tmp_path, family), family)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == len(oracle)
    for text in [*TEXTS, SPECIAL.get(family, "")]:
        ids = oracle(text)["input_ids"]
        assert tokenizer.encode(text) == ids
        assert tokenizer.encode(text, False) == oracle(text, add_special_tokens=False)["input_ids"]
        assert (
            streamed(tokenizer, ids) == tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
        )


@pytest.mark.parametrize("family", SAME_AS_TRANSFORMERS)
def test_a_family_saved_with_tokenizer_json_reads_and_writes_the_same(tmp_path: Path, family: str) -> None:
    saved = tmp_path / "saved"
    oracle = oracle_of(save_family(tmp_path, family), family)
    oracle.save_pretrained(saved)
    (saved / "config.json").write_text((tmp_path / "config.json").read_text())
    assert sorted(path.suffix for path in saved.iterdir()) == [".json"] * 3
    tokenizer = load_tokenizer(saved)
    for text in [*TEXTS, SPECIAL.get(family, "")]:
        ids = oracle(text)["input_ids"]
        assert tokenizer.encode(text) == ids
        assert (
            streamed(tokenizer, ids) == tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
        )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_role_is_the_token_that_transformers_gives_it(tmp_path: Path, family: str) -> None:
    oracle = oracle_of(save_family(tmp_path, family), family)
    tokenizer = load_tokenizer(tmp_path)
    eos = oracle.eos_token_id
    assert tokenizer.eos_ids == (set() if family in ("Albert", "DebertaV2") else {eos})
    if family == "Gemma":
        return  # a decoder, whose mask is of no use
    assert tokenizer.mask_token == oracle.mask_token
    if family != "Nllb":
        assert tokenizer.mask_id == oracle.mask_token_id


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("text", ["  two  spaces ", "ﬁ Ⅻ ① e\u0301", "a\u2581b", "\u3000x\u200by"])
def test_strange_text_is_cut_as_the_file_says(tmp_path: Path, family: str, text: str) -> None:
    """Where transformers 5 follows some rules of a file and not others."""
    vocabulary = read_folder(save_family(tmp_path, family, do_lower_case=False, keep_accents=True))
    ids = Tokenizer(vocabulary).encode(text, add_special_tokens=False)
    pieces = sentencepiece_of(family)
    assert [vocabulary.token_of(id_) for id_ in ids] == [
        pieces.id_to_piece(id_) for id_ in pieces.encode(text)
    ]


def test_fairseq_ids_leave_room_for_its_own_tokens_and_the_languages(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "Nllb"))
    own = sentencepiece_of("Nllb").encode("the License")
    assert tokenizer.encode("the License", add_special_tokens=False) == [id_ + 1 for id_ in own]
    size = len(sentencepiece_of("Nllb"))
    assert tokenizer.target_language_id("ace_Arab") == size + 1
    assert tokenizer.target_language_id("zul_Latn") == size + 202
    assert tokenizer.mask_id == size + 203


def test_pegasus_keeps_what_its_pretraining_used_before_the_pieces(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "Pegasus"))
    ids = tokenizer.encode("<pad></s><mask_1><mask_2><unk_2><unk_102>", add_special_tokens=False)
    assert ids == [0, 1, 2, 3, 4, 104]
    assert tokenizer.decode(ids) == ""
    unknown = sentencepiece_of("Pegasus").unk_id()
    assert tokenizer.encode("龍", add_special_tokens=False)[-1] == unknown + 103


def test_pegasus_without_an_offset_has_none_of_them(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "Pegasus", offset=0))
    own = sentencepiece_of("Pegasus").encode("the License")
    assert tokenizer.encode("the License") == [*own, 1]


@pytest.mark.parametrize("count", [0, 3])
def test_t5_has_as_many_sentinels_as_its_config_says(tmp_path: Path, count: int) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "T5", extra_ids=count))
    assert tokenizer.vocab_size == len(sentencepiece_of("T5")) + count
    if count:
        last = tokenizer.vocab_size - 1
        assert tokenizer.encode("<extra_id_0><extra_id_2>") == [last, last - 2, 1]


def test_sentinels_that_the_file_has_are_not_added_again(tmp_path: Path) -> None:
    save_family(tmp_path, "T5", extra_ids=2)
    own = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    (tmp_path / "spiece.model").write_bytes(train(user_defined_symbols=["<extra_id_0>"], **own))
    pieces = processor((tmp_path / "spiece.model").read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == len(pieces) + 1
    ids = tokenizer.encode("<extra_id_0><extra_id_1>", add_special_tokens=False)
    assert ids == [pieces.piece_to_id("<extra_id_0>"), len(pieces)]
    assert tokenizer.decode(ids) == ""


def test_a_config_may_take_the_space_before_a_text_away(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "Llama", add_prefix_space=False))
    with_space = sentencepiece_of("Llama").encode("the")
    assert tokenizer.encode("\u2581the", add_special_tokens=False) == with_space
    assert tokenizer.encode("the", add_special_tokens=False) != with_space
    assert tokenizer.decode(tokenizer.encode("the")) == "the"


def test_albert_cuts_a_comma_off_a_number(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(train(*["in 1997, and 1997, and 1997,"] * 200))
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"cls_token": "<s>", "sep_token": "</s>"}))
    joined = processor((tmp_path / "spiece.model").read_bytes()).encode("1997,", out_type=str)
    assert joined[-1] == "\u25811997,"
    tokenizer = load_tokenizer(tmp_path)
    spelled = [tokenizer.token_text(id_) for id_ in tokenizer.encode("1997,", add_special_tokens=False)]
    assert spelled[-1] == ","


def test_deberta_lowers_case_if_its_config_says_so(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "DebertaV2", do_lower_case=True))
    assert tokenizer.encode("The LICENSE") == tokenizer.encode("the license")


def test_llama_puts_a_space_after_a_special_token_only_if_it_is_legacy(tmp_path: Path) -> None:
    spelled = {}
    for legacy in (True, False):
        tokenizer = load_tokenizer(save_family(tmp_path, "Llama", legacy=legacy))
        spelled[legacy] = tokenizer.decode(tokenizer.encode("</s>the", add_special_tokens=False), False)
    assert spelled == {True: "</s> the", False: "</s>the"}


@pytest.mark.parametrize(
    ("config", "around"),
    [
        ({}, [1]),
        ({"add_bos_token": False}, []),
        ({"add_eos_token": True}, [1, 2]),
        ({"add_bos_token": False, "add_eos_token": True}, [2]),
    ],
)
def test_llamas_config_decides_over_its_ends(
    tmp_path: Path, config: dict[str, Any], around: list[int]
) -> None:
    assert load_tokenizer(save_family(tmp_path, "Llama", **config)).encode("") == around


def test_tokens_that_a_folder_adds_get_the_ids_that_it_states(tmp_path: Path) -> None:
    save_family(tmp_path, "Llama", additional_special_tokens=["<|im_end|>"])
    size = len(sentencepiece_of("Llama"))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": size, "<tool>": size + 1}))
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("<tool><|im_end|>", add_special_tokens=False)
    assert ids == [size + 1, size]
    assert tokenizer.decode(ids) == "<tool>"  # the other one is special
    added = {size: {"content": "<|end|>", "special": True}, size + 1: {"content": "<mine>", "special": False}}
    save_family(tmp_path, "Llama", added_tokens_decoder=added)
    assert load_tokenizer(tmp_path).decode([size, size + 1]) == "<mine>"


def test_a_role_that_is_null_is_the_familys_own(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "XLMRoberta", mask_token=None, pad_token=None))
    assert tokenizer.mask_token == "<mask>"
    assert tokenizer.encode("<pad>", add_special_tokens=False) == [1]


def test_the_class_decides_and_then_the_model_type(tmp_path: Path) -> None:
    save_family(tmp_path, "XLMRoberta")
    expected = load_tokenizer(tmp_path).encode("the")
    for config in ({"tokenizer_class": "XLMRobertaTokenizerFast"}, {}, {"tokenizer_class": None}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert load_tokenizer(tmp_path).encode("the") == expected
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CamembertTokenizer"}))
    assert load_tokenizer(tmp_path).encode("the") != expected


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("T5", {"extra_ids": "many"}, "tokenizer_config.json: `extra_ids` is 'many', not a whole number"),
        ("Pegasus", {"offset": -1}, "tokenizer_config.json: `offset` is -1"),
        ("DebertaV2", {"split_by_punct": True}, "`split_by_punct` is not implemented"),
        ("T5", {"tokenizer_class": "XLNetTokenizer"}, "its tokenizer_class is XLNetTokenizer"),
        ("Llama", {"tokenizer_class": "T5Tokenizer"}, "spiece.model cannot be read (No such file"),
        (
            "Llama",
            {"added_tokens_decoder": {"9": {"content": "<x>"}}},
            "its token <x> is said to have the id 9",
        ),
        (
            "Llama",
            {"added_tokens_decoder": {"9": "<x>"}},
            "`added_tokens_decoder` has '<x>' without its content",
        ),
        ("Albert", {"cls_token": "<c>"}, "its vocabulary lacks <c>"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(
    tmp_path: Path, family: str, config: dict[str, Any], message: str
) -> None:
    save_family(tmp_path, family, **config)
    with pytest.raises(TokenizerUnusable, match=re.escape(message)):
        load_tokenizer(tmp_path)


def test_pieces_that_a_family_does_not_start_from_are_refused(tmp_path: Path) -> None:
    save_family(tmp_path, "XLMRoberta")
    (tmp_path / "sentencepiece.bpe.model").write_bytes(train(bos_id=-1, eos_id=-1))
    with pytest.raises(TokenizerUnusable, match="its first 3 pieces are not the special ones"):
        load_tokenizer(tmp_path)
    save_family(tmp_path, "Pegasus")
    (tmp_path / "spiece.model").write_bytes(train(unk_id=0, bos_id=1, eos_id=2))
    with pytest.raises(TokenizerUnusable, match="do not have one unknown piece where its family has <unk>"):
        load_tokenizer(tmp_path)


def test_gemmas_turns_are_no_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "Gemma"))
    assert tokenizer.decode(tokenizer.encode("<start_of_turn>a  b<end_of_turn>")) == "a  b"


def test_the_files_of_bart_are_read_as_robertas(tmp_path: Path) -> None:
    save_roberta_files(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bart", "is_encoder_decoder": true}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BartTokenizer"}')
    oracle = transformers.BartTokenizer.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for text in TEXTS:
        ids = oracle(text)["input_ids"]
        assert tokenizer.encode(text) == ids
        assert (
            streamed(tokenizer, ids) == tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
        )


def test_a_generated_text_is_not_cleaned_up_after_it_was_shown(tmp_path: Path) -> None:
    save_family(tmp_path, "T5", clean_up_tokenization_spaces=True)
    (tmp_path / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.encode("the License .")
    assert streamed(tokenizer, ids) == tokenizer.decode(ids) == "the License ."
