"""Grammars in, compiled ones out: in threads of its own, so that no step waits.

Whatever a grammar is, the number of threads is bounded, that of grammars that wait for one, and the time
that each takes: a new grammar is tried in a child process first, which can be stopped.
"""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from queue import Full, Queue

from server.errors import Overloaded
from server.execution.grammars.matcher import CompiledGrammar
from server.execution.grammars.tokens import Tokenizer, Tokens
from server.execution.grammars.trial import MAX_STACK, Trial
from server.grammar import GrammarError, check
from server.request import Grammar, GrammarKind

THREADS = 2
TIMEOUT_S = 2.0
MAX_WAITING = 64
MAX_KEPT = 64  # compiled grammars: 0.1 MB for a small schema, 1.4 MB for one with 200 patterns

STACK_BYTES = 8 * MAX_STACK  # what a child lived through, a thread of ours does
_starting = threading.Lock()  # the size of a stack is a setting of the whole process


class Compiler:
    """For one model. `submit` and `close` belong to one thread."""

    def __init__(
        self,
        tokenizer: Callable[[], Tokenizer],
        vocab_size: int,
        *,
        threads: int = THREADS,
        timeout_s: float = TIMEOUT_S,
        max_waiting: int = MAX_WAITING,
        max_kept: int = MAX_KEPT,
    ) -> None:
        """`tokenizer` is called once, for the first grammar; `vocab_size` is that of the model's logits.

        Each grammar has `timeout_s` to compile, not counting its wait for a thread.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._reading = threading.Lock()
        self._tokens: Tokens | None = None
        self._timeout_s = timeout_s
        self._max_kept = max_kept
        self._num_threads = threads
        self._threads = list[threading.Thread]()
        self._waiting = Queue[_Job | None](max_waiting)
        self._kept = OrderedDict[tuple[GrammarKind, str], Future[CompiledGrammar]]()

    def submit(self, grammar: Grammar) -> Future[CompiledGrammar]:
        """Done at once if the grammar was seen lately. Equal ones share the future: do not cancel it.

        It fails with GrammarError, a sentence for the caller. Raises GrammarError for what `check` refuses or
        if llguidance is not installed, Overloaded if too many are waiting already.
        """
        key = grammar.kind, grammar.source
        known = self._kept.get(key)
        if known is not None and not _failed(known):
            self._kept.move_to_end(key)
            return known
        check(grammar)
        _require_llguidance()
        future = self._enqueue(grammar)
        self._kept[key] = future
        while len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        return future

    def close(self) -> None:
        """Let the threads end after what they are at; what waits is cancelled."""
        while not self._waiting.empty():
            if (job := self._waiting.get()) is not None:
                job[1].cancel()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _enqueue(self, grammar: Grammar) -> Future[CompiledGrammar]:
        future = Future[CompiledGrammar]()
        try:
            self._waiting.put_nowait((grammar, future))
        except Full as error:
            raise Overloaded(retry_after_s=self._timeout_s) from error
        if len(self._threads) < self._num_threads:
            self._threads.append(_start(self._work))
        return future

    def _work(self) -> None:
        with Trial(timeout_s=self._timeout_s) as trial:
            while (job := self._waiting.get()) is not None:
                grammar, future = job
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(self._compile(grammar, trial))
                except BaseException as error:  # a panic in Rust is no Exception
                    future.set_exception(error)

    def _compile(self, grammar: Grammar, trial: Trial) -> CompiledGrammar:
        trial.run(grammar)
        with self._reading:
            if self._tokens is None:
                self._tokens = Tokens(self._tokenizer(), self._vocab_size)
        return CompiledGrammar(grammar, self._tokens)


_Job = tuple[Grammar, Future[CompiledGrammar]]


def _failed(future: Future[CompiledGrammar]) -> bool:
    return future.cancelled() or (future.done() and future.exception() is not None)


def _require_llguidance() -> None:
    if importlib.util.find_spec("llguidance") is None:
        raise GrammarError(
            "this server cannot follow a grammar: its extra `structured` is not installed "
            "(pip install 'triptych[structured]')"
        )


def _start(work: Callable[[], None]) -> threading.Thread:
    """A daemon: the process does not wait for a grammar when it ends."""
    thread = threading.Thread(target=work, name="grammars", daemon=True)
    with _starting:
        usual = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        finally:
            threading.stack_size(usual)
    return thread
