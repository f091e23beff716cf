"""What sentence-transformers files say about turning hidden states into one vector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import BrokenCheckpoint, UnsupportedModel
from models.heads import Pooling

MODES = {"pooling_mode_mean_tokens": Pooling.MEAN, "pooling_mode_cls_token": Pooling.CLS}
KINDS = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceSettings:
    pooling: Pooling = Pooling.MEAN
    normalize: bool = False


def read_sentence_settings(folder: Path) -> SentenceSettings:
    """Read `modules.json` and the pooling folder that it names; mean, not normalised, where there is none.

    Raises UnsupportedModel for a module or pooling that is not implemented, BrokenCheckpoint naming a file
    that cannot be read.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return SentenceSettings()
    paths = dict(_module(modules, entry) for entry in _read(modules, list))
    pooling = Pooling.MEAN
    if "Pooling" in paths:
        pooling = _pooling(_read(folder / paths["Pooling"] / "config.json", dict))
    return SentenceSettings(pooling=pooling, normalize="Normalize" in paths)


def _module(file: Path, entry: Any) -> tuple[str, str]:
    """(kind, folder) of one entry of modules.json."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
        raise BrokenCheckpoint(file, "every module needs a `type`")
    kind, path = entry["type"].rpartition(".")[2], str(entry.get("path", ""))
    if kind not in KINDS:
        raise UnsupportedModel(f"{file} has the module {kind}; supported: {', '.join(KINDS)}")
    if ".." in Path(path).parts or Path(path).is_absolute():
        raise BrokenCheckpoint(file, f"{path!r} leads out of the model's folder")
    return kind, path


def _pooling(raw: Mapping[str, Any]) -> Pooling:
    modes = [key for key, value in raw.items() if key.startswith("pooling_mode_") and value is True]
    if len(modes) != 1 or modes[0] not in MODES:
        raise UnsupportedModel(
            f"pooling by {' and '.join(modes) or 'nothing'}; supported: {', '.join(MODES)}"
        )
    return MODES[modes[0]]


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(path, f"not readable as JSON: {error}") from error
    if not isinstance(content, kind):
        raise BrokenCheckpoint(path, f"a JSON {'object' if kind is dict else 'array'} was expected")
    return content
