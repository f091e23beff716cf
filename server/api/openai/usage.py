"""How many tokens a request took: at the end, and with every chunk where that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from server.api.edge import Edge
from server.request import Chunk, Finish, GenerateRequest


def usage(finishes: Sequence[Finish], *, samples: int) -> dict[str, Any]:
    """Of prompts that were sampled `samples` times each, one after the other in `finishes`.

    A prompt counts once, however often it was sampled. Its cached tokens are those that the first sample to
    run found; the others find what that one left behind.
    """
    groups = [finishes[first : first + samples] for first in range(0, len(finishes), samples)]
    counts = _counts(
        prompt=sum(group[0].prompt_tokens for group in groups),
        completion=sum(finish.generated_tokens for finish in finishes),
    )
    cached = sum(min(finish.cached_tokens for finish in group) for group in groups)
    return counts | {"prompt_tokens_details": {"cached_tokens": cached}}


def _counts(*, prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


class Tally:
    """Counts the tokens of a stream of several samples as they come.

    `asked`: usage is told at all; with `prompt_tokens`, those of all prompts, with each chunk too.
    """

    def __init__(self, *, samples: int, asked: bool, prompt_tokens: int | None) -> None:
        self._samples = samples
        self._asked = asked
        self._prompt_tokens = prompt_tokens
        self._generated = 0
        self._finishes = dict[int, Finish]()

    def add(self, number: int, chunk: Chunk) -> None:
        """Count a chunk of the sample of that number."""
        self._generated += len(chunk.tokens)
        if chunk.finish is not None:
            self._finishes[number] = chunk.finish

    def so_far(self) -> dict[str, Any]:
        """What a chunk says about usage: nothing, null, or the count so far."""
        if not self._asked:
            return {}
        if self._prompt_tokens is None:
            return {"usage": None}
        return {"usage": _counts(prompt=self._prompt_tokens, completion=self._generated)}

    def total(self) -> dict[str, Any]:
        """Of the whole stream, once all of it has come."""
        finishes = [self._finishes[number] for number in sorted(self._finishes)]
        return usage(finishes, samples=self._samples)


async def prompt_tokens(edge: Edge, orders: Iterable[GenerateRequest]) -> int:
    """How many tokens the engine will read, before it says so itself."""
    return sum([await _prompt_tokens(edge, order) for order in orders])


async def _prompt_tokens(edge: Edge, order: GenerateRequest) -> int:
    if isinstance(order.prompt, str):
        special = order.add_special_tokens
        count = len(await edge.engine.tokenize(order.prompt, model=order.model, add_special_tokens=special))
    else:
        count = len(order.prompt)
    return count if order.truncate is None else min(count, order.truncate)
