"""What a folder says about generating is read as transformers reads it; what is wrong with it is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from server.text.errors import GenerationConfigUnusable
from server.text.generation_defaults import GenerationDefaults, read_generation_defaults

BART = {
    "decoder_start_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "num_beams": 4,
    "length_penalty": 2.0,
    "early_stopping": True,
    "no_repeat_ngram_size": 3,
    "min_length": 56,
    "max_length": 142,
}
MARIAN = {"decoder_start_token_id": 58100, "bad_words_ids": [[58100]], "num_beams": 6, "max_length": 512}
QWEN = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
REST = {"early_stopping": "never", "min_new_tokens": 1, "max_new_tokens": 20, "length_penalty": -1}
T5_TASKS = {
    "summarization": {
        "early_stopping": True,
        "length_penalty": 2.0,
        "max_length": 200,
        "min_length": 30,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "prefix": "summarize: ",
    },
    "translation_en_to_de": {"max_length": 300, "prefix": "translate English to German: "},
}
FIELDS = {  # ours by transformers' names, where they differ
    "decoder_start": "decoder_start_token_id",
    "forced_first": "forced_bos_token_id",
    "forced_last": "forced_eos_token_id",
}
NAMES = [name for name in GenerationDefaults.__slots__ if name not in ("prefix", "tasks")]


def save(folder: Path, *, config: Any = None, generation: Any = None) -> Path:
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


def plain(value: Any) -> Any:
    """JSON's lists for our tuples."""
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def assert_same(defaults: GenerationDefaults, oracle: GenerationConfig) -> None:
    for name in NAMES:
        assert plain(getattr(defaults, name)) == getattr(oracle, FIELDS.get(name, name)), name


@pytest.mark.parametrize("stated", [BART, MARIAN, QWEN, REST, {}])
def test_generation_config_is_read_as_in_transformers(tmp_path: Path, stated: dict[str, Any]) -> None:
    save(tmp_path, generation=stated)
    assert_same(read_generation_defaults(tmp_path), GenerationConfig.from_pretrained(tmp_path))


@pytest.mark.parametrize("stated", [BART, MARIAN, QWEN, {}])
def test_without_it_the_fields_of_config_are_read_as_in_transformers(
    tmp_path: Path, stated: dict[str, Any]
) -> None:
    save(tmp_path, config={"model_type": "bart", "is_encoder_decoder": True, **stated})
    oracle = GenerationConfig.from_pretrained(tmp_path, config_file_name="config.json")
    assert_same(read_generation_defaults(tmp_path), oracle)


def test_where_both_files_speak_generation_config_does_alone(tmp_path: Path) -> None:
    defaults = read_generation_defaults(save(tmp_path, config=BART, generation={"num_beams": 2}))
    assert defaults == GenerationDefaults(num_beams=2)


def test_an_answer_without_a_start_of_its_own_follows_bos(tmp_path: Path) -> None:
    stated = {"bos_token_id": 7}
    encoder_decoder = save(tmp_path, config={"is_encoder_decoder": True}, generation=stated)
    assert read_generation_defaults(encoder_decoder).decoder_start == 7
    assert read_generation_defaults(save(tmp_path, config={})).decoder_start is None


def test_a_task_has_parameters_and_a_prefix_of_its_own(tmp_path: Path) -> None:
    config = {"task_specific_params": T5_TASKS, "is_encoder_decoder": True}
    save(tmp_path, config=config, generation={"decoder_start_token_id": 0, "num_beams": 1, "top_k": 9})
    defaults = read_generation_defaults(tmp_path)
    assert (defaults.prefix, defaults.num_beams, list(defaults.tasks)) == ("", 1, list(T5_TASKS))
    summary = defaults.for_task("summarization")
    assert (summary.prefix, summary.num_beams, summary.length_penalty) == ("summarize: ", 4, 2.0)
    assert (summary.early_stopping, summary.min_length, summary.max_length) == (True, 30, 200)
    assert (summary.decoder_start, summary.top_k) == (0, 9)
    german = defaults.for_task("translation_en_to_de")
    assert (german.prefix, german.max_length, german.num_beams) == ("translate English to German: ", 300, 1)
    assert defaults.for_task("translation_en_to_xx") == defaults


def test_a_prefix_may_stand_before_every_text(tmp_path: Path) -> None:
    defaults = read_generation_defaults(save(tmp_path, config={"prefix": " ", "task_specific_params": None}))
    assert defaults.prefix == defaults.for_task("summarization").prefix == " "


def test_a_folder_that_says_nothing_and_a_gguf_file_have_no_defaults(tmp_path: Path) -> None:
    assert read_generation_defaults(tmp_path) == GenerationDefaults()
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert read_generation_defaults(tmp_path / "model.gguf") == GenerationDefaults()


def test_a_token_may_be_a_list_of_one(tmp_path: Path) -> None:
    save(tmp_path, generation={"forced_eos_token_id": [2]})
    assert read_generation_defaults(tmp_path).forced_last == 2


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"num_beams": "4"}, "`num_beams` is '4', not a whole number of 0 or more"),
        ({"num_beams": True}, "`num_beams` is True, not a whole number"),
        ({"max_length": -1}, "`max_length` is -1, not a whole number"),
        ({"top_k": 1.5}, "`top_k` is 1.5, not a whole number"),
        ({"length_penalty": "big"}, "`length_penalty` is 'big', not a number"),
        ({"temperature": float("nan")}, "`temperature` is nan, not a number"),
        ({"top_p": False}, "`top_p` is False, not a number"),
        ({"do_sample": 1}, "`do_sample` is 1, not true or false"),
        ({"early_stopping": "always"}, "`early_stopping` is 'always', not true, false or \"never\""),
        ({"early_stopping": 1}, "`early_stopping` is 1, not true, false"),
        ({"decoder_start_token_id": [1, 2]}, "`decoder_start_token_id` is [1, 2], not the id of one token"),
        ({"forced_bos_token_id": -1}, "`forced_bos_token_id` is -1, not the id of one token"),
        ({"bad_words_ids": [5]}, "`bad_words_ids` is [5], not a list of lists of token ids"),
        ({"bad_words_ids": [["no"]]}, "`bad_words_ids` is [['no']], not the id of one token"),
    ],
)
@pytest.mark.parametrize("file", ["generation_config.json", "config.json", "a task"])
def test_a_value_of_the_wrong_type_is_named_with_its_file_and_key(
    tmp_path: Path, file: str, stated: dict[str, Any], message: str
) -> None:
    if file == "generation_config.json":
        save(tmp_path, generation=stated)
    elif file == "config.json":
        save(tmp_path, config=stated)
    else:
        save(tmp_path, config={"task_specific_params": {"summarization": stated}})
        file = "config.json: task_specific_params.summarization"
    with pytest.raises(GenerationConfigUnusable, match=re.escape(f"{file}: {message}")):
        read_generation_defaults(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("generation_config.json", "{", "generation_config.json is not readable as JSON"),
        ("generation_config.json", "[]", "generation_config.json is not a JSON object"),
        ("config.json", '{"prefix": 3}', "config.json: `prefix` is 3, not text"),
        (
            "config.json",
            '{"task_specific_params": [1]}',
            "`task_specific_params` is not an object of objects",
        ),
        ("config.json", '{"task_specific_params": {"a": 1}}', "is not an object of objects"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(GenerationConfigUnusable, match=re.escape(message)):
        read_generation_defaults(tmp_path)
