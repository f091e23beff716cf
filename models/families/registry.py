"""Every family that is implemented, by the name that a configuration gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.families import bert
from models.families.naming import Family
from models.families.reading import choice

FAMILIES: Mapping[str, Family] = {
    "bert": bert.FAMILY,
}


def family_of(raw: Mapping[str, Any]) -> Family:
    """The family that a config.json names as `model_type`.

    Raises UnsupportedModel naming it and those that there are.
    """
    return choice(raw, "model_type", FAMILIES)
