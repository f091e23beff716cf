"""Cuts a text that is too long, and keeps the special tokens around it."""

from __future__ import annotations

from collections.abc import Sequence

from server.engine.catalogue import Served
from server.errors import InvalidRequest
from server.request import Side


def truncated(
    model: Served, whole: Sequence[int], text: str | Sequence[int], limit: int, side: Side
) -> list[int]:
    """`whole` are the tokens of `text` with the special ones around them: at most `limit` of them are kept.

    What is cut is cut from the text's own tokens, at `side`. Raises InvalidRequest where these cannot be
    told from the others, or none would be left.
    """
    if not isinstance(text, str):
        return _cut(list(whole), limit, side)
    bare = model.tokenizer.encode(text, add_special_tokens=False)
    places = (i for i in range(len(whole)) if list(whole[i : i + len(bare)]) == bare)
    start = next(places, None)
    if start is None:
        raise InvalidRequest("`truncate` is not possible with this model's tokenizer", parameter="truncate")
    around = len(whole) - len(bare)
    if limit <= around:
        raise InvalidRequest(
            f"`truncate` must be above {around}: this model has so many special tokens around a text",
            parameter="truncate",
        )
    kept = _cut(bare, limit - around, side)
    return [*whole[:start], *kept, *whole[start + len(bare) :]]


def _cut(tokens: list[int], count: int, side: Side) -> list[int]:
    return tokens[:count] if side is Side.RIGHT else tokens[len(tokens) - count :]
