"""Texts written at random within a grammar: every token is drawn from those that are allowed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
from torch import Tensor

from server.execution.grammars.matcher import CompiledGrammar, Matcher
from server.text.tokenizer import Tokenizer


def bits(mask: Tensor) -> list[int]:
    """The tokens of a mask: token t is bit t % 32 of word t // 32."""
    found: list[int] = np.flatnonzero(np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")).tolist()
    return found


def walk(grammar: CompiledGrammar, tokenizer: Tokenizer, seed: int, *, free: int = 40) -> tuple[str, Matcher]:
    """After `free` tokens it closes what is open. A text that does not end in 2000 tokens never will."""
    matcher, dice, closing = grammar.matcher(), random.Random(seed), _closing(tokenizer)
    output = list[int]()
    while not matcher.over:
        allowed = bits(matcher.allowed())
        ending = tokenizer.eos_ids.intersection(allowed) or closing.intersection(allowed)
        output.append(dice.choice(sorted(ending) if ending and len(output) >= free else allowed))
        matcher.advance(output[-1])
        assert len(output) < 2000
    return written(tokenizer, output), matcher


def written(tokenizer: Tokenizer, output: Sequence[int]) -> str:
    """As after a prompt: the first token keeps its space."""
    visible = [token for token in output if not tokenizer.is_special(token)]
    return b"".join(tokenizer.spell(token, first=False) for token in visible).decode()


@cache
def _closing(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(
        token for token in range(tokenizer.vocab_size) if tokenizer.token_text(token) in ('"', "}", "]", ")")
    )
