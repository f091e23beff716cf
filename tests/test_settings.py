"""Settings: one place, four sources, and a clear word for what cannot be used."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

import pytest

from server.settings import BadSetting, Settings, add_flags, read


def parsed(*arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return vars(parser.parse_args(arguments))


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "triptych.toml"
    file.write_text('port = 1\nhost = "file"\nmax_sequences = 3\n')
    environment = {"TRIPTYCH_PORT": "2", "TRIPTYCH_HOST": "environment", "TRIPTYCH_CONFIG": str(file)}
    settings = read(parsed("--port", "4"), environment)
    assert (settings.port, settings.host, settings.max_sequences) == (4, "environment", 3)


def test_models_are_repeated_flags_words_of_a_variable_or_a_list(tmp_path: Path) -> None:
    file = tmp_path / "triptych.toml"
    file.write_text('model = ["a", "b=c"]\n')
    assert read(parsed("--model", "a", "--model", "b=c"), {}).model == ("a", "b=c")
    assert read({}, {"TRIPTYCH_MODEL": "a b=c"}).model == ("a", "b=c")
    assert read({"config": str(file)}, {}).model == ("a", "b=c")


def test_adapters_are_repeated_as_models_are() -> None:
    assert read(parsed("--lora", "a=x", "--lora", "b=y@gpt"), {}).lora == ("a=x", "b=y@gpt")
    assert read({}, {"TRIPTYCH_LORA": "a=x b=y@gpt", "TRIPTYCH_LORA_FOLDER": "z"}) == replace(
        Settings(), lora=("a=x", "b=y@gpt"), lora_folder=Path("z")
    )


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 << 20), ("4GB", 4_000_000_000), ("1.5 GiB", 3 << 29), ("4096", 4096)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert read({"kv_memory": text}, {}).kv_memory == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "-1"),
        ("device", "tpu"),
        ("dtype", "int4"),
        ("kv_memory", "many"),
        ("max_sequences", "0"),
        ("threads", "0"),
        ("threads", "all"),
        ("offline", "perhaps"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_origin(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=f"^TRIPTYCH_{name.upper()} must be .*'{value}'"):
        read({}, {f"TRIPTYCH_{name.upper()}": value})


def test_a_misspelt_line_in_the_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "triptych.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(BadSetting, match="unknown settings: prot"):
        read({"config": str(file)}, {})


def test_a_model_in_the_file_is_text(tmp_path: Path) -> None:
    file = tmp_path / "triptych.toml"
    file.write_text("model = 5\n")
    with pytest.raises(BadSetting, match=r"model in .* must be words"):
        read({"config": str(file)}, {})


def test_every_setting_has_a_flag() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = parser.format_help()
    flags = {one.name: ("no-" if one.default is True else "") + one.name for one in fields(Settings)}
    assert all("--" + flag.replace("_", "-") in text for flag in flags.values())
    assert read(vars(parser.parse_args(["--no-speculation"])), {}).speculation is False


def test_the_file_may_be_missing_but_not_silently(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="cannot be read"):
        read({"config": str(tmp_path / "none.toml")}, {})
