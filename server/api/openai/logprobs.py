"""Log-probabilities as OpenAI and vLLM shape them: parallel lists for text, a list of entries for chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.request import Alternative, Token

LEAST = -9999.0  # OpenAI's word for minus infinity, which JSON cannot spell
UNKNOWN = "\ufffd"  # in the text of a token that is only a piece of a character


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What is said of each token: itself, and the `alternatives` most probable ones.

    Tokens are named by their text; `as_ids` names them `token_id:5`, so that no two share a name.
    """

    alternatives: int
    as_ids: bool = False

    def name(self, token: Token | Alternative) -> str:
        return f"token_id:{token.id}" if self.as_ids else token.text

    def most_probable(self, token: Token) -> dict[str, float]:
        """Legacy `top_logprobs` of one token: the alternatives, best first, and always the token itself.

        Where two are spelled alike, the more probable one keeps the name.
        """
        best = dict[str, float]()
        for each in _with_itself(token, self.alternatives):
            best.setdefault(self.name(each), finite(each.logprob))
        return best

    def chat(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """`choices[].logprobs` of a chat: an entry for each token of the content, thus for no special one."""
        entries = [
            self._entry(token)
            | {"top_logprobs": [self._entry(each) for each in token.alternatives[: self.alternatives]]}
            for token in tokens
            if not token.special
        ]
        return {"content": entries, "refusal": None}

    def _entry(self, token: Token | Alternative) -> dict[str, Any]:
        return {"token": self.name(token), "logprob": finite(token.logprob), "bytes": _bytes(token.text)}


@dataclass(slots=True, kw_only=True)
class TextLogprobs:
    """`choices[].logprobs` of a text completion, piece by piece.

    `text_offset` counts characters of the choice's whole text, from which pieces are taken in order.
    A token that shows nothing there (a special one, the beginning of a character) has the next one's offset.
    """

    scores: Scores
    _at: int = field(default=0, init=False)

    def prompt(self, tokens: Sequence[Token], text: str) -> dict[str, Any]:
        """Of a prompt that is echoed as `text`; what the server put around it is not in there."""
        offsets = list[int]()
        for token in tokens:
            offsets.append(self._at)
            if text.startswith(token.text, self._at):
                self._at += len(token.text)
        self._at = len(text)
        return self._lists(tokens, offsets)

    def generated(self, tokens: Sequence[Token]) -> dict[str, Any]:
        offsets = list[int]()
        for token in tokens:
            offsets.append(self._at)
            self._at += 0 if token.special else len(token.text)
        return self._lists(tokens, offsets)

    def _lists(self, tokens: Sequence[Token], offsets: list[int]) -> dict[str, Any]:
        """A token without a score is the first of a prompt: nothing was there to predict it."""
        unscored = [token.logprob is None for token in tokens]
        return {
            "tokens": [self.scores.name(token) for token in tokens],
            "token_logprobs": [
                None if first else finite(token.logprob)
                for token, first in zip(tokens, unscored, strict=True)
            ],
            "top_logprobs": [
                None if first else self.scores.most_probable(token)
                for token, first in zip(tokens, unscored, strict=True)
            ],
            "text_offset": offsets,
        }


def joined(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several pieces of `TextLogprobs` as one."""
    return {key: [item for piece in pieces for item in piece[key]] for key in pieces[0]}


def prompt_logprobs(tokens: Sequence[Token], alternatives: int) -> list[dict[str, Any] | None]:
    """vLLM's field of that name: for each token of the prompt but the first, id -> score.

    The token itself is always among them; beyond the alternatives its rank is not known.
    """
    return [None if token.logprob is None else _ranked(token, alternatives) for token in tokens]


def _ranked(token: Token, alternatives: int) -> dict[str, Any]:
    ranks = {each.id: rank for rank, each in enumerate(token.alternatives, 1)}
    return {
        str(each.id): {
            "logprob": finite(each.logprob),
            "rank": ranks.get(each.id),
            "decoded_token": each.text,
        }
        for each in _with_itself(token, alternatives)
    }


def _with_itself(token: Token, alternatives: int) -> Iterator[Token | Alternative]:
    """The most probable ones, best first; then the token, if it is none of them."""
    best = token.alternatives[:alternatives]
    yield from best
    if all(each.id != token.id for each in best):
        yield token


def finite(logprob: float | None) -> float:
    """A log-probability that every JSON parser reads."""
    return LEAST if logprob is None else max(logprob, LEAST)


def _bytes(text: str) -> list[int] | None:
    """UTF-8; None where the token is no whole character by itself."""
    return None if UNKNOWN in text else list(text.encode())
