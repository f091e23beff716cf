"""Follows one text through its grammar: allowed tokens before, the chosen one after."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from server.execution.grammars.dialect import parse, reason
from server.execution.grammars.tokens import Tokens
from server.request import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher

# What following a text may cost, in seconds of processor time: so much at once, and so much more a token.
# Usual are 0.00005 a token. A rule like `s: s s | s s s | "a"` takes longer for each token than for the last.
ALLOWANCE_S = 0.1
ALLOWANCE_PER_TOKEN_S = 0.001


class CompiledGrammar:
    """A grammar over a model's tokens. Never changes, so that sequences may share it."""

    def __init__(self, grammar: Grammar, tokens: Tokens) -> None:
        """Raises GrammarError for what means nothing, or what these tokens cannot begin to write."""
        self.kind = grammar.kind
        self.tokens = tokens
        self._beginning = parse(grammar, tokens.trie)

    def matcher(self, stop_tokens: frozenset[int] | None = None, output: Iterable[int] = ()) -> Matcher:
        """For a sequence that `stop_tokens` end (None: the model's own), after `output` of it.

        The state is a function of the tokens: a matcher that has followed them and a new one are equal.
        """
        ends = self.tokens.ends if stop_tokens is None else stop_tokens
        matcher = Matcher(self, self._beginning.deep_copy(), ends)
        for token in output:
            matcher.advance(token)
        return matcher


class Matcher:
    """The place of one text in its grammar.

    The tokens that end the text are allowed where it may end, and only there; but where nothing else can
    follow they always are, and if there are none, the model's own. So there is always something to choose.
    """

    def __init__(self, grammar: CompiledGrammar, parser: LLMatcher, stop_tokens: frozenset[int]) -> None:
        tokens = grammar.tokens
        self._kind = grammar.kind
        self._parser = parser
        self._stop_tokens = stop_tokens
        self._ends = tokens.mask(stop_tokens)
        self._last = self._ends if self._ends.any() else tokens.mask(tokens.ends)
        self._within = tokens.textual & ~self._ends
        self._allowed: Tensor | None = None
        self._ended = False
        self._allowance_s = ALLOWANCE_S

    @property
    def over(self) -> bool:
        """Nothing more can follow: a sequence may end here without waiting for a stop token."""
        return self._ended or self._exhausted or self._parser.is_stopped()

    @property
    def complete(self) -> bool:
        """The text so far is what the grammar says, whether or not more could follow."""
        return self._parser.is_accepting()

    @property
    def failure(self) -> str | None:
        """Why the text will not become what the grammar says: one sentence; None while it can."""
        if self._exhausted:
            return "the grammar is too ambiguous: following it takes too long"
        message = self._parser.get_error()
        return f"the text cannot follow the grammar: {reason(message, self._kind)}" if message else None

    def allowed(self) -> Tensor:
        """[vocabulary / 32, rounded up] int32: bit t % 32 of word t // 32 is set if token t may come next.

        Not to be written to.
        """
        if self._allowed is None:
            self._allowed = self._last if self.over else self._compute()
        return self._allowed

    def advance(self, token: int) -> None:
        """`token` came next. One that was not allowed is a `failure`."""
        self._allowed = None
        if token in self._stop_tokens:
            self._ended = True
        elif not (self._ended or self._exhausted):
            self._allowance_s += ALLOWANCE_PER_TOKEN_S
            with self._metered():
                self._parser.consume_token(token)

    def _compute(self) -> Tensor:
        grammatical = torch.empty_like(self._within)
        with self._metered():
            self._parser.unsafe_compute_mask_ptr(grammatical.data_ptr(), grammatical.nbytes)
        allowed = grammatical & self._within
        if self._parser.is_accepting():
            allowed |= self._ends
        # Nothing is left if llguidance gave up, or if only a stop token goes on: it then ends the text short.
        return allowed if allowed.any() else self._last

    @property
    def _exhausted(self) -> bool:
        return self._allowance_s < 0

    @contextmanager
    def _metered(self) -> Iterator[None]:
        """By the processor's time: a machine that is busy with other things is no fault of the grammar."""
        started = time.thread_time()
        try:
            yield
        finally:
            self._allowance_s -= time.thread_time() - started
