"""What SmolLM2 wrote (`write_text.py`), without what it should not have.

A small model falls into three habits that are not prose: it declines, it goes round in circles, and it stops
after a line. Documents that show one of them are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from models.defaults.training.readers import read_text

SHORTEST = 200  # characters
LEAST_VARIED = 0.75  # share of the pairs of neighbouring words that are said for the first time
REFUSALS = re.compile(
    r"\bas an? (AI|artificial|digital assistant)\b|\b(AI|virtual) assistant\b|\blanguage model\b"
    r"|\bI('m| am) (sorry|unable)\b|\bI (can(no|')t|do not|don't) (assist|help|provide|have access)\b",
    re.I,
)


def written(path: Path) -> Iterator[str]:
    """The documents of a file of generated text, one a line, that are worth reading."""
    yield from filter(worth_reading, read_text(path).splitlines())


def worth_reading(document: str) -> bool:
    return len(document) >= SHORTEST and not REFUSALS.search(document) and variety(document) >= LEAST_VARIED


def variety(document: str) -> float:
    """How little a text repeats itself: distinct pairs of neighbouring words, of all pairs. 1 at best."""
    pairs = list(pairwise(document.lower().split()))
    return len(set(pairs)) / max(len(pairs), 1)
