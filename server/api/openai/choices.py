"""The choices of an answer, as text completions and chats shape them: whole, or piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from server.api.edge import Answer
from server.api.openai.logprobs import Scores, TextLogprobs, joined, prompt_logprobs
from server.request import Chunk, Finish, FinishReason, GenerateRequest, Token

FINISH = {
    FinishReason.LENGTH: "length",
    FinishReason.EOS: "stop",
    FinishReason.STOP: "stop",
    FinishReason.TIMEOUT: "timeout",  # not in OpenAI's list; only a request with a `timeout` can get it
}

UNFINISHED = {"finish_reason": None, "stop_reason": None}

Receipt = Callable[[GenerateRequest, Finish], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a choice says besides its text; absent unless asked for."""

    scores: Scores | None = None
    echo: bool = False
    token_ids: bool = False
    prompt_alternatives: int | None = None
    receipt: Receipt | None = None

    def of_tokens(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {"token_ids": [token.id for token in tokens]} if self.token_ids else {}

    def of_prompt(self, prompt: Sequence[Token], finish: Finish | None) -> dict[str, Any]:
        """vLLM says this in each choice of a text completion, and once for a chat. Its ids are known last."""
        said = dict[str, Any]()
        if self.prompt_alternatives is not None and prompt:
            said["prompt_logprobs"] = prompt_logprobs(prompt, self.prompt_alternatives)
        if self.token_ids and finish is not None:
            said["prompt_token_ids"] = finish.prompt_ids
        return said

    def of_finish(self, order: GenerateRequest, finish: Finish | None) -> dict[str, Any]:
        """Why it ended, if it has; with that, what is known only then."""
        if finish is None:
            return UNFINISHED
        ending: dict[str, Any] = {"finish_reason": FINISH[finish.reason], "stop_reason": finish.stop}
        if self.receipt is not None:
            ending["receipt"] = self.receipt(order, finish)
        return ending


class TextChoice:
    """One choice of a text completion. Its pieces say what the whole says."""

    def __init__(self, index: int, order: GenerateRequest, wanted: Wanted) -> None:
        self._index = index
        self._order = order
        self._wanted = wanted
        self._logprobs = None if wanted.scores is None else TextLogprobs(scores=wanted.scores)
        self._to_echo = wanted.echo

    def whole(self, answer: Answer) -> dict[str, Any]:
        return self._say(answer.finish.text, answer.tokens, answer.prompt, answer.finish)

    def piece(self, chunk: Chunk) -> dict[str, Any] | None:
        """What a chunk adds; None if that is nothing that was asked for."""
        told = self._wanted.token_ids or self._logprobs is not None
        if chunk.text or chunk.finish or self._to_echo or (told and chunk.tokens):
            return self._say(chunk.text, chunk.tokens, chunk.prompt, chunk.finish)
        return None

    def _say(
        self, text: str, tokens: Sequence[Token], prompt: Sequence[Token], finish: Finish | None
    ) -> dict[str, Any]:
        echo, self._to_echo = self._to_echo, False
        shown = self._shown(prompt) if echo else ""
        return {
            "index": self._index,
            "text": shown + text,
            "logprobs": self._scored(prompt if echo else (), shown, tokens),
            **self._wanted.of_prompt(prompt, finish),
            **self._wanted.of_tokens(tokens),
            **self._wanted.of_finish(self._order, finish),
        }

    def _shown(self, prompt: Sequence[Token]) -> str:
        """The prompt as it was read. Where its tokens tell, special ones are spelled out."""
        given = self._order.prompt
        if isinstance(given, str) and self._order.truncate is None:
            return given
        return "".join(token.text for token in prompt)

    def _scored(self, prompt: Sequence[Token], shown: str, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        pieces = [self._logprobs.prompt(prompt, shown)] if prompt else []
        return joined([*pieces, self._logprobs.generated(tokens)])


class ChatChoice:
    """One choice of a chat. Its pieces are deltas, the first of which says who speaks."""

    def __init__(self, index: int, order: GenerateRequest, wanted: Wanted) -> None:
        self._index = index
        self._order = order
        self._wanted = wanted
        self._opened = False

    def whole(self, answer: Answer) -> dict[str, Any]:
        return {
            "index": self._index,
            "message": {"role": "assistant", "content": answer.finish.text, "refusal": None},
            "logprobs": self._scored(answer.tokens),
            **self._wanted.of_tokens(answer.tokens),
            **self._wanted.of_finish(self._order, answer.finish),
        }

    def pieces(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
        """The role before anything else, what the chunk adds, and why the text ended."""
        if not self._opened:
            self._opened = True
            yield self._piece({"role": "assistant", "content": ""})
        told = self._wanted.token_ids or self._wanted.scores is not None
        if chunk.text or (told and chunk.tokens):
            yield self._piece({"content": chunk.text}, chunk.tokens)
        if chunk.finish is not None:
            yield self._piece({}, finish=chunk.finish)

    def _piece(
        self, delta: dict[str, Any], tokens: Sequence[Token] = (), finish: Finish | None = None
    ) -> dict[str, Any]:
        return {
            "index": self._index,
            "delta": delta,
            "logprobs": self._scored(tokens) if tokens else None,
            **(self._wanted.of_tokens(tokens) if tokens else {}),
            **self._wanted.of_finish(self._order, finish),
        }

    def _scored(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        return None if self._wanted.scores is None else self._wanted.scores.chat(tokens)
