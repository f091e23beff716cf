"""Tokenizers agree with transformers, token for token, whichever files they come from."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, pipeline

from server.text.errors import TokenizerUnusable
from server.text.tokenizer import Tokenizer, TokenSpan, load_tokenizer
from tests.text.vocabularies import byte_level, word_piece

TEXTS = [
    "Hello, world!",
    "  leading,  double   and trailing spaces  ",
    "tabs\tand\nnew\r\nlines\n\n\n",
    "It's 3.14159 or 2,000,000; isn't IT? WE'LL see 12345678 times.",
    "naïve café — 日本語のテキスト, Ελληνικά, العربية, हिन्दी",
    "emoji 🙂👍🏽👨‍👩‍👧 and e\u0301 combining",
    "def f(x):\n    return x ** 2  # square\n",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "",
]


def save(folder: Path, backend: Backend, **config: Any) -> Path:
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def save_gpt2_files(folder: Path) -> Path:
    byte_level().model.save(str(folder))
    return folder


def save_roberta_files(folder: Path) -> dict[str, int]:
    """The files' vocabulary."""
    vocabulary: dict[str, int] = json.loads((save_gpt2_files(folder) / "vocab.json").read_text())
    for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>"):
        vocabulary[name] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return vocabulary


def save_bert_files(folder: Path, *, lower: bool) -> Path:
    ids = sorted(word_piece().get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("\n".join(token for token, _ in ids) + "\n", encoding="utf-8")
    config = {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


def test_truncation_and_padding_written_into_the_file_are_switched_off(tmp_path: Path) -> None:
    backend = Backend.from_str(word_piece().to_str())
    backend.enable_truncation(4)
    backend.enable_padding(length=4)
    tokenizer = load_tokenizer(save(tmp_path, backend))
    assert len(tokenizer.encode("the quick brown fox jumps over")) > 4
    assert len(tokenizer.encode("")) == 2


def test_special_tokens_may_be_strings_or_objects(tmp_path: Path) -> None:
    save(tmp_path, word_piece(), mask_token={"content": "[MASK]", "lstrip": False}, cls_token="[CLS]")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.mask_token, tokenizer.mask_id) == ("[MASK]", 4)
    assert tokenizer.is_special(4)
    assert tokenizer.token_text(4) == "[MASK]"
    assert not tokenizer.is_special(10)


def test_a_mask_token_that_no_config_names_is_found(tmp_path: Path) -> None:
    word_piece().save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).mask_token == "[MASK]"


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [0, 2]}, {}, {0, 2}),
        ({"eos_token_id": 1}, {"eos_token_id": 0}, {1, 2}),
        ({}, {"eos_token_id": 0}, {0, 2}),
        ({}, {}, {2}),
    ],
)
def test_a_text_ends_with_what_generation_config_says_and_the_tokenizers_own_end(
    tmp_path: Path, generation: dict[str, Any], config: dict[str, Any], expected: set[int]
) -> None:
    save(tmp_path, byte_level(), eos_token="<|im_end|>")
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).eos_ids == expected


def test_a_decoder_whose_vocabulary_has_a_mask_still_ends(tmp_path: Path) -> None:
    save(tmp_path, byte_level(), eos_token="<|im_end|>", mask_token="<|endoftext|>")  # as Gemma's does
    assert load_tokenizer(tmp_path).eos_ids == {2}


def test_a_turn_that_the_chat_template_ends_ends_the_text(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
    save(tmp_path, byte_level(), eos_token="<|endoftext|>", chat_template=template)
    assert load_tokenizer(tmp_path).eos_ids == {0, 2}


def test_a_template_file_wins_over_the_config(tmp_path: Path) -> None:
    save(tmp_path, byte_level(), chat_template="from the config")
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert load_tokenizer(tmp_path).render_chat([]) == "from the file"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    assert load_tokenizer(save(tmp_path, byte_level(), chat_template=named)).render_chat([]) == "d"


@pytest.mark.parametrize(("add", "expected"), [(True, [1]), (False, []), (None, [])])
def test_the_config_decides_whether_a_text_begins_with_bos(
    tmp_path: Path, add: bool | None, expected: list[int]
) -> None:
    config = {} if add is None else {"add_bos_token": add}
    tokenizer = load_tokenizer(save(tmp_path, byte_level(), bos_token="<|im_start|>", **config))
    assert tokenizer.encode("") == expected
    assert tokenizer.encode("", add_special_tokens=False) == []
    assert tokenizer.bos_id == 1


@pytest.mark.parametrize("text", TEXTS)
def test_the_older_bpe_files_give_what_transformers_makes_of_them(tmp_path: Path, text: str) -> None:
    save_gpt2_files(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).encode(text) == oracle(text)["input_ids"]


def test_the_older_roberta_files_put_their_own_tokens_around(tmp_path: Path) -> None:
    vocabulary = save_roberta_files(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    # From these files alone, transformers 5 forgets that RoBERTa's mask takes the space before it along.
    mask = AddedToken("<mask>", lstrip=True, normalized=False)
    oracle = AutoTokenizer.from_pretrained(tmp_path, mask_token=mask)
    tokenizer = load_tokenizer(tmp_path)
    for text in ["the <mask> fox", "<mask>", " the fox ", "a<mask>b"]:
        assert tokenizer.encode(text) == oracle(text)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(text), False) == oracle.decode(oracle(text)["input_ids"])
    assert tokenizer.mask_id == vocabulary["<mask>"]


@pytest.mark.parametrize("lower", [True, False])
def test_the_older_bert_files_give_what_transformers_makes_of_them(tmp_path: Path, lower: bool) -> None:
    save_bert_files(tmp_path, lower=lower)
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for text in ["The Quick [MASK]!", "naïve café 日本", "the,fox doesn't  "]:
        ids = tokenizer.encode(text)
        assert ids == oracle(text)["input_ids"]
        assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


def test_tokens_added_to_the_older_files_have_the_ids_that_the_folder_states(tmp_path: Path) -> None:
    size = Backend.from_str(word_piece().to_str()).get_vocab_size()
    save_bert_files(tmp_path, lower=True)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<b>": size + 1, "<a>": size}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("<a><b>", add_special_tokens=False) == [size, size + 1]
    assert tokenizer.encode("<a>the")[1:] == [size, *tokenizer.encode("the")[1:]]


def test_a_folder_without_a_tokenizer_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(TokenizerUnusable, match=r"no tokenizer\.json, no vocab\.txt"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "line 1"),
        ("tokenizer_config.json", "[1]", r"tokenizer_config\.json is not a JSON object"),
        ("generation_config.json", "{", r"generation_config\.json is not readable"),
        ("chat_template.jinja", "{% if %}", "Expected an expression"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    save(tmp_path, byte_level())
    (tmp_path / file).write_text(content)
    with pytest.raises(TokenizerUnusable, match=message):
        load_tokenizer(tmp_path)


def test_a_decoder_that_is_not_implemented_is_named(tmp_path: Path) -> None:
    state = json.loads(byte_level().to_str())
    state["decoder"] = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(TokenizerUnusable, match="its decoder is CTC"):
        load_tokenizer(tmp_path)


def test_spans_cover_the_text_in_characters(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, word_piece(), mask_token="[MASK]"))
    assert tokenizer.encode_with_offsets("Fox é [MASK]")[:2] == [
        TokenSpan(id=2, text="[CLS]", start=0, stop=0, special=True),
        TokenSpan(id=tokenizer.encode("fox", False)[0], text="Fox", start=0, stop=3, special=False),
    ]
    mask = tokenizer.encode_with_offsets("Fox é [MASK]", add_special_tokens=False)[-1]
    assert mask == TokenSpan(id=4, text="[MASK]", start=6, stop=12, special=True)


def test_threads_may_share_a_tokenizer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, byte_level()))
    texts = [f"{text} {number}" for number in range(50) for text in TEXTS]
    alone = [tokenizer.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(tokenizer.encode, texts)) == alone


def test_tokens_beyond_the_vocabulary_are_nothing(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, byte_level()))
    assert tokenizer.decode([tokenizer.vocab_size, 10**9]) == ""
    assert tokenizer.token_text(10**9) == ""


@pytest.mark.parametrize("clean_up", [True, False])
def test_filled_sequences_read_as_those_of_the_fill_mask_pipeline(tmp_path: Path, clean_up: bool) -> None:
    save_bert_files(tmp_path, lower=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"clean_up_tokenization_spaces": clean_up}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    tokenizer = load_tokenizer(tmp_path)
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    model = BertForMaskedLM(
        BertConfig(vocab_size=len(oracle), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    fill = pipeline("fill-mask", model=model.eval(), tokenizer=oracle)
    for text in ["it 's [MASK] , isn't it?", "The [MASK] fox [MASK] over ' the dog."]:
        ids = tokenizer.encode(text)
        masks = [place for place, id_ in enumerate(ids) if id_ == tokenizer.mask_id]
        found = fill(text)
        for place, row in zip(masks, found if len(masks) > 1 else [found], strict=True):
            for candidate in row:
                filled = [*ids[:place], candidate["token"], *ids[place + 1 :]]
                shown = tokenizer.decode(filled, skip_special_tokens=len(masks) == 1)
                assert shown == candidate["sequence"]
                assert tokenizer.decode([candidate["token"]], False) == candidate["token_str"]


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2: Path) -> Tokenizer:
    return load_tokenizer(smollm2)


@pytest.fixture(scope="module")
def smollm2_oracle(smollm2: Path) -> Any:
    """transformers' own reading of the GGUF file, with the digits apart.

    It has no rule for the pre-tokenizer "smollm" and takes GPT-2's, which differs from the model's own
    tokenizer.json where spaces come before a digit.
    """
    oracle = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    oracle.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return oracle


@pytest.mark.defaults
@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_agrees_with_transformers(
    smollm2_tokenizer: Tokenizer, smollm2_oracle: Any, text: str
) -> None:
    ids = smollm2_tokenizer.encode(text)
    assert ids == smollm2_oracle(text)["input_ids"]
    assert smollm2_tokenizer.decode(ids) == smollm2_oracle.decode(ids, skip_special_tokens=True)


@pytest.mark.defaults
@given(text=st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_smollm2_agrees_with_transformers_on_any_text(
    smollm2_tokenizer: Tokenizer, smollm2_oracle: Any, text: str
) -> None:
    assert smollm2_tokenizer.encode(text) == smollm2_oracle(text)["input_ids"]


@pytest.mark.defaults
def test_smollm2_knows_its_ends_its_specials_and_its_template(
    smollm2_tokenizer: Tokenizer, smollm2_oracle: Any
) -> None:
    assert smollm2_tokenizer.eos_ids == {2}
    assert smollm2_tokenizer.token_text(2) == "<|im_end|>"
    assert smollm2_tokenizer.vocab_size == 49152
    assert smollm2_tokenizer.mask_token is None
    messages = [{"role": "user", "content": "Hi"}]
    expected = smollm2_oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert smollm2_tokenizer.render_chat(messages) == expected


@pytest.mark.defaults
def test_minilm_reads_more_than_its_file_would_let_it(minilm: Path) -> None:
    tokenizer = load_tokenizer(minilm)
    assert len(tokenizer.encode("word " * 400)) == 402
    assert len(tokenizer.encode("word")) == 3


@pytest.mark.defaults
@pytest.mark.parametrize("text", TEXTS)
def test_minilm_agrees_with_transformers(minilm: Path, text: str) -> None:
    oracle = AutoTokenizer.from_pretrained(minilm)
    tokenizer = load_tokenizer(minilm)
    ids = tokenizer.encode(text)
    assert ids == oracle(text, truncation=False, padding=False)["input_ids"]
    assert tokenizer.decode(ids) == oracle.decode(ids, skip_special_tokens=True)
