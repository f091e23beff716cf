"""Translators: source and target languages, whichever files they are named in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from server.errors import InvalidRequest
from server.text.errors import TokenizerUnusable
from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.folders import GERMAN, save_family, save_m2m100, save_marian
from tests.text.pieces import train
from tests.text.test_families import TEXTS, oracle_of, streamed
from tests.text.vocabularies import sentence_piece

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses:UserWarning")


def as_tokenizer_json(folder: Path, family: str, **config: Any) -> Path:
    """The same folder as transformers 5 saves it, with tokenizer.json alone."""
    saved = folder / "saved"
    oracle_of(save_family(folder, family), family).save_pretrained(saved)
    stated = json.loads((saved / "tokenizer_config.json").read_text())
    (saved / "tokenizer_config.json").write_text(json.dumps(stated | config))
    (saved / "config.json").write_text((folder / "config.json").read_text())
    assert not list(saved.glob("*.model"))
    return saved


@pytest.mark.parametrize("family", ["MBart", "MBart50"])
@pytest.mark.parametrize("save", [save_family, as_tokenizer_json])
def test_mbart_says_the_source_language_on_the_side_that_it_was_trained_to(
    tmp_path: Path, family: str, save: Callable[..., Path]
) -> None:
    tokenizer = load_tokenizer(save(tmp_path, family))
    oracle = oracle_of(save_family(tmp_path, family), family)
    assert tokenizer.encode("the License") == oracle("the License")["input_ids"]  # en_XX
    oracle.src_lang = "de_DE"
    for text in TEXTS:
        expected = oracle(text)["input_ids"]
        for code in ("de_DE", "de"):
            assert tokenizer.encode(text, source_language=code) == expected
        assert streamed(tokenizer, expected) == oracle.decode(expected, skip_special_tokens=True)
    assert tokenizer.target_language_id("ro_RO") == oracle.convert_tokens_to_ids("ro_RO")
    assert len(tokenizer.languages) == (25 if family == "MBart" else 52)
    assert tokenizer.languages[:2] == ("ar_AR", "cs_CZ")
    assert not tokenizer.target_leads_the_source
    assert tokenizer.target_is_the_start == (family == "MBart")
    assert tokenizer.target_begins_the_answer == (family == "MBart50")


def test_a_folder_may_have_a_source_language_of_its_own(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_family(tmp_path, "MBart50", src_lang="ro_RO"))
    assert tokenizer.encode("x")[0] == tokenizer.target_language_id("ro_RO")


@pytest.mark.parametrize("legacy", [True, False])
def test_nllb_puts_the_source_language_where_its_config_says(tmp_path: Path, legacy: bool) -> None:
    """From a tokenizer.json: transformers has no languages for the older files."""
    backend = Backend.from_str(sentence_piece().to_str())
    codes = ["deu_Latn", "eng_Latn", "zho_Hans"]
    backend.add_tokens([AddedToken(code, special=False) for code in codes])
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "NllbTokenizer", "eos_token": "</s>", "legacy_behaviour": legacy}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "m2m_100"}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.languages == ("deu_Latn", "eng_Latn", "zho_Hans")
    assert tokenizer.decode(tokenizer.encode("zho_Hans")) == ""  # no text, though the file does not say so
    assert not tokenizer.target_is_the_start
    for code in ("eng_Latn", "zho_Hans"):
        id_, eos, text = tokenizer.target_language_id(code), 2, tokenizer.encode("the fox", False)
        expected = [*text, eos, id_] if legacy else [id_, *text, eos]
        assert tokenizer.encode("the fox", source_language=code) == expected
        if code == "eng_Latn":
            assert tokenizer.encode("the fox") == expected
    with pytest.raises(InvalidRequest, match="`src_lang` is not a language of this model"):
        tokenizer.encode("the fox", source_language="eng")


@pytest.mark.parametrize("listed", ["m2m100", "wmt21"])
def test_m2m100_reads_as_in_transformers(tmp_path: Path, listed: str) -> None:
    oracle = transformers.M2M100Tokenizer.from_pretrained(save_m2m100(tmp_path, language_codes=listed))
    tokenizer = load_tokenizer(tmp_path)
    for code in tokenizer.languages:
        assert tokenizer.target_language_id(code) == oracle.get_lang_id(code)
    assert len(tokenizer.languages) == len(oracle.lang_code_to_id)
    assert tokenizer.target_language_id("__de__") == tokenizer.target_language_id("de")
    oracle.src_lang = "de"
    for text in [*TEXTS, "a </s> b", "<pad>x"]:
        ids = oracle(text)["input_ids"]
        assert tokenizer.encode(text, source_language="de") == ids
        expected = oracle.decode(ids[1:], skip_special_tokens=True)
        assert streamed(tokenizer, ids).strip() == tokenizer.decode(ids).strip() == expected
    assert tokenizer.eos_ids == {2}


@pytest.mark.parametrize("separate", [False, True])
def test_marian_reads_the_source_and_writes_the_target_as_in_transformers(
    tmp_path: Path, separate: bool
) -> None:
    oracle = transformers.MarianTokenizer.from_pretrained(save_marian(tmp_path, separate=separate))
    tokenizer = load_tokenizer(tmp_path)
    for text in [*TEXTS, "中国 x中", GERMAN, "a </s> b", "<pad>x", "  two  spaces "]:
        assert tokenizer.encode(text) == oracle(text)["input_ids"]
        written = oracle(text_target=text)["input_ids"]
        expected = oracle.decode(written, skip_special_tokens=True)
        # An unknown token is nothing; the space that stood beside it is all that transformers takes away.
        assert streamed(tokenizer, written).strip() == tokenizer.decode(written).strip() == expected
    assert tokenizer.languages == ()
    assert tokenizer.eos_ids == {0}
    assert tokenizer.vocab_size == len(oracle.target_encoder if separate else oracle.encoder)


def test_marian_writes_as_its_target_file_says(tmp_path: Path) -> None:
    save_marian(tmp_path)
    (tmp_path / "target.spm").write_bytes(train(byte_fallback=True))
    bytes_of_a_character = [f"<0x{byte:02X}>" for byte in "龍".encode()]
    ids = {token: id_ for id_, token in enumerate(["</s>", "<unk>", "\u2581the", *bytes_of_a_character])}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    assert streamed(load_tokenizer(tmp_path), [2, 3, 4, 5, 0]) == "the龍"


def test_marian_is_told_the_target_before_the_text(tmp_path: Path) -> None:
    oracle = transformers.MarianTokenizer.from_pretrained(save_marian(tmp_path, codes=["fra", "por_br"]))
    tokenizer = load_tokenizer(tmp_path)
    expected = oracle(">>por_br<< the License")["input_ids"]
    assert tokenizer.encode(">>por_br<< the License") == expected
    for code in ("por_br", ">>por_br<<"):
        assert tokenizer.encode("the License", target_language=code) == expected
    assert tokenizer.encode("the License", False, target_language="fra") == expected[1:-1]
    assert tokenizer.languages == ("fra", "por_br")
    assert tokenizer.target_leads_the_source
    assert not tokenizer.target_is_the_start
    assert not tokenizer.target_begins_the_answer
    assert tokenizer.target_language_id("por_br") == expected[0]
    assert tokenizer.decode(expected) == "the License"
    with pytest.raises(InvalidRequest, match="`src_lang` cannot be given") as raised:
        tokenizer.encode("x", source_language="fra")
    assert raised.value.parameter == "src_lang"


def test_spans_of_a_numbered_vocabulary_cover_the_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_marian(tmp_path, codes=["fra"]))
    spans = tokenizer.encode_with_offsets("the License")
    assert [span.id for span in spans] == tokenizer.encode("the License")
    assert "".join(span.text for span in spans[:-1]) == "the License"
    assert (spans[-1].text, spans[-1].start, spans[-1].stop, spans[-1].special) == ("</s>", 0, 0, True)


def mbart(folder: Path) -> Tokenizer:
    return load_tokenizer(save_family(folder, "MBart"))


def t5(folder: Path) -> Tokenizer:
    return load_tokenizer(save_family(folder, "T5"))


def test_an_unknown_language_is_answered_with_some_that_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"`src_lang` .* it has de_DE, ar_AR, .*, …$") as raised:
        mbart(tmp_path).encode("x", source_language="deu")
    assert raised.value.parameter == "src_lang"
    with pytest.raises(InvalidRequest, match="`tgt_lang` is not a language of this model") as raised:
        mbart(tmp_path).target_language_id("deu")
    assert raised.value.parameter == "tgt_lang"


def test_a_tokenizer_without_languages_takes_none(tmp_path: Path) -> None:
    tokenizer = t5(tmp_path)
    assert tokenizer.languages == ()
    assert not tokenizer.target_begins_the_answer
    with pytest.raises(InvalidRequest, match=r"`src_lang` cannot be given: .* has no languages"):
        tokenizer.encode("x", source_language="en")
    with pytest.raises(InvalidRequest, match=r"`tgt_lang` cannot be given: .* has no languages") as raised:
        tokenizer.target_language_id("en")
    assert raised.value.parameter == "tgt_lang"


def test_two_letters_that_could_be_two_languages_are_none(tmp_path: Path) -> None:
    saved = as_tokenizer_json(tmp_path, "MBart")
    state = json.loads((saved / "tokenizer.json").read_text())
    size = len(state["model"]["vocab"])
    state["added_tokens"].append(state["added_tokens"][-1] | {"id": size, "content": "en_GB"})
    (saved / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = load_tokenizer(saved)
    assert tokenizer.target_language_id("en_GB") == size
    with pytest.raises(InvalidRequest, match="`tgt_lang`"):
        tokenizer.target_language_id("en")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.json", '{"a": "b"}', "in vocab.json, 'a' has no id but 'b'"),
        ("vocab.json", '{"<unk>": 0, "</s>": 0}', "in vocab.json, two tokens have the same id"),
        ("vocab.json", '{"a": 0, "</s>": 1}', "its vocab.json lacks <unk>"),
        ("vocab.json", '{"a": 0, "<unk>": 1}', "its vocab.json lacks </s>"),
        ("source.spm", "", "source.spm is not a usable SentencePiece model"),
        ("target.spm", "", "target.spm is not a usable SentencePiece model"),
        ("tokenizer_config.json", '{"separate_vocabs": true}', "it has no target_vocab.json"),
    ],
)
def test_what_is_wrong_with_a_numbered_vocabulary_is_named(
    tmp_path: Path, file: str, content: str, message: str
) -> None:
    (save_marian(tmp_path) / file).write_text(content)
    with pytest.raises(TokenizerUnusable, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("older", [True, False])
def test_tokens_added_to_a_numbered_vocabulary_have_their_ids(tmp_path: Path, older: bool) -> None:
    config = {"tokenizer_class": "MarianTokenizer"}
    size = load_tokenizer(save_marian(tmp_path)).vocab_size
    if older:
        (tmp_path / "added_tokens.json").write_text(json.dumps({"<note>": size}))
    else:
        added = {
            "0": {"content": "</s>", "special": True},
            str(size): {"content": "<note>", "special": False},
        }
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": added}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("<note>the") == [size, *tokenizer.encode("the")]
    assert tokenizer.decode([size]) == "<note>"


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"</s>": 5}, "its token </s> is said to have the id 5, and would have 0"),
        ({"<note>": 5}, "two of its tokens have the same id"),
    ],
)
def test_tokens_added_under_an_id_that_is_taken_are_refused(
    tmp_path: Path, added: dict[str, int], message: str
) -> None:
    (save_marian(tmp_path) / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(TokenizerUnusable, match=message):
        load_tokenizer(tmp_path)


def test_a_list_of_languages_that_is_not_known_is_named(tmp_path: Path) -> None:
    save_m2m100(tmp_path, language_codes="mine")
    with pytest.raises(TokenizerUnusable, match="its language_codes are 'mine'; known are m2m100, wmt21"):
        load_tokenizer(tmp_path)
