"""DRY, "don't repeat yourself": the longer a repetition is already, the dearer its next token.

As in llama.cpp and text-generation-webui (whose pull request 5677, by p-e-w, defines it).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from server.execution.sampling.penalties import LARGEST, Penalty
from server.execution.sampling.row import Row
from server.request import Dry


def dry_penalty(row: Row) -> Penalty:
    """What tokens lose that would lengthen a repetition, see `Dry`."""
    dry = row.sampling.dry
    if dry is None:
        return Penalty.of({})
    lengths = _repeated(row.tokens[row.window(dry.window) :], dry)
    return Penalty.of({token: _loss(length, dry) for token, length in lengths.items()})


def _loss(length: int, dry: Dry) -> float:
    """The exponent is bounded so that the power is a number."""
    exponent: float = length - dry.allowed_length
    if dry.base > 1.0:
        exponent = min(exponent, math.log(LARGEST) / math.log(dry.base))
    return dry.multiplier * dry.base**exponent


def _repeated(tokens: Sequence[int], dry: Dry) -> dict[int, int]:
    """For each token that followed an earlier copy of the text's end: the length of the longest copy.

    Neither the copied run nor its continuation is a breaker.
    """
    backwards = tokens[::-1]
    limit = next((i for i, token in enumerate(backwards) if token in dry.breakers), len(backwards))
    longest = dict[int, int]()
    for place, length in _matches(backwards):
        length, token = min(length, limit), backwards[place - 1]
        if length >= max(dry.allowed_length, 1) and token not in dry.breakers:
            longest[token] = max(length, longest.get(token, 0))
    return longest


def _matches(text: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Every place > 0 where `text` begins anew, and for how long: the Z-algorithm, linear in the worst case.

    Between the matches it leaps with `index`, so that text without repetition costs next to nothing.
    """
    lengths = [0] * len(text)
    left = right = 0  # the match that reaches furthest
    place = 1
    while place < len(text):
        if place >= right:
            try:
                place = text.index(text[0], place)
            except ValueError:
                return
        length = lengths[place - left] if place < right else 0
        if place + length >= right:
            left, right = place, _end_of_match(text, place, max(place, right))
            length = right - left
        lengths[place] = length
        if length:
            yield place, length
        place += 1


def _end_of_match(text: Sequence[int], place: int, known: int) -> int:
    """Where the match that begins at `place` ends, when it is known up to `known`."""
    end = known
    while end < len(text) and text[end] == text[end - place]:
        end += 1
    return end
