"""What the requests ask: made up from a seed, or read from a file."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych_client.bench.dialects import Question

WORDS = """\
the of and to in is was that for on as with by he at from his an were are which this be or had first one their
its new after two who they have her she when time people than world over year city house water light river
"""
FIRST_WORD_TOKENS = 4
"""About what the number costs that makes a text different; the other words are a token each in most cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text of a file, and how many tokens to generate for it; None: as many as for all."""

    text: str
    tokens: int | None = None


def words_for(tokens: int) -> int:
    """How many made-up words come to about `tokens` tokens."""
    return max(1, tokens - FIRST_WORD_TOKENS + 1)


def made_up(*, words: int, seed: int, salt: str) -> Iterator[str]:
    """Texts without end, different from the first word on, so that no cache of prefixes flatters a server.

    Equal seeds and salts give equal texts.
    """
    choice = random.Random(f"{salt} {seed}")
    for number in itertools.count():
        yield " ".join([f"{number}-{salt}", *choice.choices(WORDS.split(), k=words - 1)])


def questions(prompts: Iterator[Prompt], *, count: int, texts_each: int, tokens: int) -> Iterator[Question]:
    """`count` of them, with `texts_each` of the `prompts` each."""
    for _ in range(count):
        taken = list(itertools.islice(prompts, texts_each))
        own = next((prompt.tokens for prompt in taken if prompt.tokens is not None), tokens)
        yield Question(texts=tuple(prompt.text for prompt in taken), tokens=own)


def read_prompts(path: Path) -> Sequence[Prompt]:
    """JSON lines: each a text, or an object with `prompt` and, if it likes, `tokens`. Blank lines are none.

    Raises ValueError, naming the line, for anything else; OSError where the file cannot be read.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [_read_line(line, f"{path}, line {at}") for at, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no prompt")
    return found


def _read_line(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON: {error}") from None
    fields = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str) or not fields["prompt"]:
        raise ValueError(f"{where}: expected a text, or an object with a text as `prompt`")
    if unknown := sorted(fields.keys() - {"prompt", "tokens"}):
        raise ValueError(f"{where}: unknown field `{unknown[0]}`; known: prompt, tokens")
    return Prompt(text=fields["prompt"], tokens=_count(fields.get("tokens"), where))


def _count(value: Any, where: str) -> int | None:
    if value is None or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"{where}: `tokens` must be a whole number of at least 1; found {json.dumps(value)}")
