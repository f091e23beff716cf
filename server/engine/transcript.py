"""Turns the tokens of one stream into text: whole characters only, and no piece of a stop string."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq

from server.engine.messages import Sampled
from server.request import Chunk, Finish, FinishReason, Token
from server.text.detokenizer import Detokenizer
from server.text.stopping import StopStrings
from server.text.tokenizer import Tokenizer


class Transcript:
    """Feed it every sampled token. A token is handed out once all of its text is beyond recall."""

    def __init__(self, tokenizer: Tokenizer, prompt: Seq[int], stop: Seq[str], *, seed: int) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, prompt)
        self._stop = StopStrings(stop)
        self._seed = seed
        self._prompt_tokens = len(prompt)
        self._generated = 0
        self._sent = list[str]()
        self._written = 0  # characters that the tokens so far have
        self._safe = 0  # of these, how many may be sent
        self._held = deque[tuple[Token, int]]()  # and where its text ends

    def push(self, sampled: Sampled) -> Chunk:
        """What may be sent after this token; its `finish` is set if the stream ends here."""
        self._generated += 1
        special = self._tokenizer.is_special(sampled.token)
        text = "" if special else self._detokenizer.push(sampled.token)
        if sampled.finish is not None:
            text += self._detokenizer.flush()
        self._hold(sampled, text, special=special)
        stopped = self._advance(text, last=sampled.finish is not None)
        if stopped is not None:
            return self._end(FinishReason.STOP, stopped)
        if sampled.finish is not None:
            return self._end(sampled.finish, None)
        return Chunk(tokens=self._release())

    def _hold(self, sampled: Sampled, text: str, *, special: bool) -> None:
        self._written += len(text)
        shown = self._tokenizer.token_text(sampled.token) if special else text
        token = Token(id=sampled.token, text=shown, logprob=sampled.logprob, special=special)
        self._held.append((token, self._written))

    def _advance(self, text: str, *, last: bool) -> str | None:
        """Move the line up to which text is safe; the stop string that was found, if one was."""
        result = self._stop.push(text)
        safe = result.text
        if last and result.stopped_by is None:
            safe += self._stop.flush()
        self._safe += len(safe)
        self._sent.append(safe)
        return result.stopped_by

    def _release(self) -> tuple[Token, ...]:
        released = list[Token]()
        while self._held and self._held[0][1] <= self._safe:
            released.append(self._held.popleft()[0])
        return tuple(released)

    def _end(self, reason: FinishReason, stop: str | None) -> Chunk:
        tokens = (*self._release(), *(self._cut(token, end) for token, end in self._held))
        finish = Finish(
            reason=reason,
            text="".join(self._sent),
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            seed=self._seed,
            stop=stop,
        )
        return Chunk(tokens=tokens, finish=finish)

    def _cut(self, token: Token, end: int) -> Token:
        """The token without what belongs to the stop string."""
        if token.special:
            return token
        kept = token.text[: max(0, len(token.text) - (end - self._safe))]
        return Token(id=token.id, text=kept, logprob=token.logprob, special=False)
