"""The small JSON files beside a model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file. Raises ValueError naming the file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} is not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def read_ids(path: Path) -> dict[str, int]:
    """Tokens with their ids, no two the same. Raises ValueError, also where there is no such file."""
    if not path.is_file():
        raise ValueError(f"it has no {path.name}")
    ids = read_object(path)
    for token, id_ in ids.items():
        if type(id_) is not int or id_ < 0:
            raise ValueError(f"in {path.name}, {token!r} has no id but {id_!r}")
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"in {path.name}, two tokens have the same id")
    return ids
