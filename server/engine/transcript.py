"""Turns the tokens of one stream into text: whole characters only, and no piece of a stop string."""

from __future__ import annotations

from collections import deque

from server.engine.messages import Generate, Sampled
from server.request import Alternative, Chunk, Finish, FinishReason, GenerateRequest, Token
from server.scheduling.plan import Scored
from server.text.detokenizer import Detokenizer
from server.text.stopping import StopStrings
from server.text.tokenizer import Tokenizer


class Transcript:
    """Feed it what each step sampled. A token is handed out once all of its text is beyond recall."""

    def __init__(self, tokenizer: Tokenizer, command: Generate, request: GenerateRequest) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, command.tokens)
        self._stop = StopStrings(request.stop)
        self._include_stop = request.include_stop
        self._min_new_tokens = command.sampling.min_new_tokens
        self._stop_tokens = frozenset(request.stop_tokens)
        self._seed = command.sampling.seed
        self._prompt = command.prompt
        self._scores = list[Scored]()  # of the prompt
        self._owes_prompt = command.prompt_alternatives is not None  # the first chunk takes it along
        self._cached = 0
        self._output = list[int]()
        self._sent = list[str]()
        self._written = 0  # characters that the tokens so far have
        self._safe = 0  # of these, how many may be sent
        self._held = deque[tuple[Token, int]]()  # and where its text ends

    @property
    def owes_prompt(self) -> bool:
        """Whether a scored prompt is still to come: the push that brings it takes long."""
        return self._owes_prompt

    def push(self, sampled: Sampled) -> Chunk:
        """What may be sent after this step; its `finish` is set if the stream ends here."""
        self._scores += sampled.prompt
        self._cached = max(self._cached, sampled.cached)
        for number, scored in enumerate(sampled.tokens, 1):
            ends = sampled.finish if number == len(sampled.tokens) else None
            stopped = self._take(scored, ends)
            if stopped is not None:
                return self._end(FinishReason.STOP, stopped)
        if sampled.finish is not None:
            return self._finish(sampled.finish)
        return Chunk(tokens=self._release(), prompt=self._take_prompt() if sampled.tokens else ())

    def _take(self, scored: Scored, ends: FinishReason | None) -> str | None:
        """Add a token; the stop string that it completes, if it does."""
        self._output.append(scored.token)
        special = self._tokenizer.is_special(scored.token)
        stops = ends is FinishReason.EOS and not self._include_stop
        text = "" if special or stops else self._detokenizer.push(scored.token)
        self._hold(scored, text, special=special)
        result = self._stop.push(text, may_end=len(self._output) > self._min_new_tokens)
        self._let_go(result.text)
        if result.stopped_by is not None and self._include_stop:
            self._let_go(result.stopped_by)
        return result.stopped_by

    def _hold(self, scored: Scored, text: str, *, special: bool) -> None:
        self._written += len(text)
        shown = self._tokenizer.token_text(scored.token) if special else text
        token = Token(
            id=scored.token,
            text=shown,
            logprob=scored.logprob,
            special=special,
            alternatives=self._alternatives(scored, shown),
        )
        self._held.append((token, self._written))

    def _let_go(self, text: str) -> None:
        self._safe += len(text)
        self._sent.append(text)

    def _release(self) -> tuple[Token, ...]:
        released = list[Token]()
        while self._held and self._held[0][1] <= self._safe:
            released.append(self._held.popleft()[0])
        return tuple(released)

    def _finish(self, reason: FinishReason) -> Chunk:
        """Text held back for a stop string is sent; the beginning of a character that never came is not."""
        self._let_go(self._stop.flush())
        last = self._output[-1] if self._output else None
        if reason is FinishReason.EOS and last in self._stop_tokens:
            return self._end(FinishReason.STOP, last)
        return self._end(reason, None)

    def _end(self, reason: FinishReason, stop: str | int | None) -> Chunk:
        tokens = (*self._release(), *(self._cut(token, end) for token, end in self._held))
        finish = Finish(
            reason=reason,
            text="".join(self._sent),
            prompt_tokens=len(self._prompt),
            generated_tokens=len(self._output),
            seed=self._seed,
            stop=stop,
            cached_tokens=self._cached,
            prompt_ids=self._prompt,
            output_ids=tuple(self._output),
        )
        return Chunk(tokens=tokens, finish=finish, prompt=self._take_prompt())

    def _cut(self, token: Token, end: int) -> Token:
        """The token without what belongs to the stop string."""
        if token.special:
            return token
        kept = token.text[: max(0, len(token.text) - (end - self._safe))]
        return Token(id=token.id, text=kept, logprob=token.logprob, alternatives=token.alternatives)

    def _take_prompt(self) -> tuple[Token, ...]:
        """The prompt's tokens with their scores, if it was scored; once. The first has none.

        They are as many as were scored: a deadline may have passed before all of them were.
        """
        if not self._owes_prompt:
            return ()
        self._owes_prompt = False
        read = self._prompt[: 1 + len(self._scores)]
        detokenizer = Detokenizer(self._tokenizer)
        first, *texts = (self._prompt_text(detokenizer, token) for token in read)
        special = map(self._tokenizer.is_special, read)
        return (
            Token(id=self._prompt[0], text=first, logprob=None, special=next(special)),
            *(
                Token(
                    id=scored.token,
                    text=text,
                    logprob=scored.logprob,
                    special=is_special,
                    alternatives=self._alternatives(scored, text),
                )
                for scored, text, is_special in zip(self._scores, texts, special, strict=True)
            ),
        )

    def _prompt_text(self, detokenizer: Detokenizer, token: int) -> str:
        special = self._tokenizer.is_special(token)
        return self._tokenizer.token_text(token) if special else detokenizer.push(token)

    def _alternatives(self, scored: Scored, text: str) -> tuple[Alternative, ...]:
        """Each with the text that it would have by itself; the token itself with the text that it has."""
        return tuple(
            Alternative(
                id=id_,
                text=text if id_ == scored.token else self._spell(id_),
                logprob=logprob,
                special=self._tokenizer.is_special(id_),
            )
            for id_, logprob in scored.alternatives
        )

    def _spell(self, token: int) -> str:
        if self._tokenizer.is_special(token):
            return self._tokenizer.token_text(token)
        return self._tokenizer.spell(token, first=False).decode(errors="replace")
