"""What is brought before the engine process starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.engine.messages import LoraSetup
from server.model_setups import bring_loras
from server.settings import BadSetting, Settings

MODELS = ["gpt", "org/bert"]


def test_an_adapter_says_for_which_model_it_is(tmp_path: Path) -> None:
    settings = Settings(lora=(f"sql={tmp_path}@gpt", f"legal={tmp_path}@org/bert", f"poet={tmp_path}@gpt"))
    assert bring_loras(settings, MODELS) == {
        "gpt": [LoraSetup("sql", str(tmp_path)), LoraSetup("poet", str(tmp_path))],
        "org/bert": [LoraSetup("legal", str(tmp_path))],
    }


def test_with_one_model_it_need_not(tmp_path: Path) -> None:
    (tmp_path / "v@2").mkdir()
    settings = Settings(lora=("a=x", "b=y@gpt", f"c={tmp_path}/v@2", "d=here=there"))
    folders = [lora.path for lora in bring_loras(settings, ["gpt"])["gpt"]]
    assert folders == ["x", "y", f"{tmp_path}/v@2", "here=there"]


@pytest.mark.parametrize(
    ("loras", "said"),
    [
        (("sql",), "--lora sql: NAME=FOLDER"),
        (("=x",), "--lora =x: NAME=FOLDER"),
        (("sql=",), "--lora sql=: NAME=FOLDER"),
        (("sql=x",), "@MODEL must say for which model: gpt, org/bert"),
        (("sql=x@opt",), "@MODEL must say for which model: gpt, org/bert"),
        (("gpt=x@gpt",), "gpt is taken"),
        (("sql=x@gpt", "sql=y@gpt"), "sql is taken"),
    ],
)
def test_what_cannot_be_told_is_an_error_that_shows_it(loras: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadSetting, match=said):
        bring_loras(Settings(lora=loras), MODELS)


def test_the_folder_of_adapters_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"--lora-folder .*: there is no such folder"):
        bring_loras(Settings(lora_folder=tmp_path / "none"), MODELS)
    assert bring_loras(Settings(lora_folder=tmp_path), MODELS) == {}
