"""Whatever a grammar is, it costs its own request a refusal at most, and no other request anything."""

from __future__ import annotations

import importlib.util
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

pytest.importorskip("llguidance")  # of the extra `structured`

from server.errors import Overloaded
from server.execution.grammars.compiler import Compiler
from server.execution.grammars.matcher import CompiledGrammar
from server.execution.grammars.trial import Trial
from server.grammar import GrammarError
from server.request import Grammar, GrammarKind
from server.text.tokenizer import Tokenizer
from server.text.vocabulary import Vocabulary
from tests.execution.walks import bits
from tests.text import vocabularies

JSON, REGEX, CHOICE, EBNF = (
    GrammarKind.JSON_SCHEMA,
    GrammarKind.REGEX,
    GrammarKind.CHOICE,
    GrammarKind.EBNF,
)

# Both found by trying: the first never ends, the second recurses once for each rule.
ENDLESS = "start: A\nA: " + " & ".join(f"/.*{i}.*/" for i in range(1000))
DEEP = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(4500)) + '\nr4500: "y"'


def tokenizer() -> Tokenizer:
    return Tokenizer(Vocabulary(backend=vocabularies.byte_level(), stop_ids=frozenset({0})))


def grammar(source: str, kind: GrammarKind = REGEX) -> Grammar:
    return Grammar(kind=kind, source=source)


def make(*, timeout_s: float = 20.0, threads: int = 1, max_waiting: int = 64, max_kept: int = 8) -> Compiler:
    return Compiler(
        tokenizer, 400, threads=threads, timeout_s=timeout_s, max_waiting=max_waiting, max_kept=max_kept
    )


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    compiler = make()
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    with Trial(timeout_s=20.0) as trial:
        yield trial


def result(future: Future[CompiledGrammar]) -> CompiledGrammar:
    return future.result(timeout=60)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (JSON, '{"type": "object", "properties": {"a": {"type": "integer"}}}'),
        (JSON, '{"anyOf": [{"type": "null"}, {"$ref": "#"}]}'),
        (JSON, '{"oneOf": [{"type": "string"}, {"type": "integer"}]}'),
        (REGEX, "[a-z]+"),
        (CHOICE, '["yes", "no"]'),
        (EBNF, "start: /[0-9]+/"),
    ],
)
def test_every_kind_compiles(compiler: Compiler, kind: GrammarKind, source: str) -> None:
    assert bits(result(compiler.submit(grammar(source, kind))).matcher().allowed())


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        (REGEX, "(a", "unclosed group"),
        (REGEX, "(?=a)b", "look-around, including look-ahead and look-behind, is not supported"),
        (REGEX, r"[^\s\S]", "no text of this model's tokens matches it"),
        (EBNF, 'foo: "a"', "no start rule found"),
        (EBNF, "start: a\na: foo", 'line 2 column 4: unknown name: "foo"'),
        (EBNF, "start: a\na: a", "no text of this model's tokens matches it"),
        (JSON, '{"type": "objekt"}', "Invalid type: objekt"),
        (JSON, '{"type": "array", "uniqueItems": true}', 'Unimplemented keys: ["uniqueItems"]'),
        (JSON, '{"type": "integer", "minimum": 5, "maximum": 4}', "minimum (5) is greater than maximum (4)"),
        (JSON, '{"oneOf": [{"type": "number"}, {"type": "integer"}]}', "`anyOf` would do"),
        (JSON, '{"$ref": "http://example.com/s"}', "does not fetch resources"),
        (JSON, '{"$ref": "#/$defs/gone"}', "Pointer '/$defs/gone' does not exist"),
        (JSON, '{"type": "string", "pattern": "("}', "unclosed group"),
        (JSON, '{"const": 1e999}', "number out of range"),
        (REGEX, "a?" * 2000, "it is too complex"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    compiler: Compiler, kind: GrammarKind, source: str, message: str
) -> None:
    with pytest.raises(GrammarError) as caught:
        result(compiler.submit(grammar(source, kind)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 260


def test_what_the_source_alone_gives_away_is_refused_at_once(compiler: Compiler) -> None:
    with pytest.raises(GrammarError, match="deeper than"):
        compiler.submit(grammar("(" * 100 + ")" * 100))


def test_after_a_bad_grammar_a_good_one_compiles(compiler: Compiler) -> None:
    with pytest.raises(GrammarError):
        result(compiler.submit(grammar("(bad")))
    assert result(compiler.submit(grammar("good")))


def test_one_that_kills_its_trial_is_refused_and_the_next_one_compiles(trial: Trial) -> None:
    with pytest.raises(GrammarError, match="too deep or too large"):
        trial.run(grammar(DEEP, EBNF))
    trial.run(grammar("a"))


def test_one_that_takes_too_long_is_refused_and_the_next_one_compiles() -> None:
    with Trial(timeout_s=0.5) as trial:
        trial.run(grammar("a"))
        started = time.monotonic()
        with pytest.raises(GrammarError, match=r"takes more than 0\.5 s"):
            trial.run(grammar(ENDLESS, EBNF))
        assert time.monotonic() - started < 10
        trial.run(grammar("a"))


def test_a_child_that_died_by_itself_is_no_fault_of_the_next_grammar() -> None:
    with Trial(timeout_s=20.0) as trial:
        trial.run(grammar("a"))
        child = trial._child
        assert child is not None
        child.kill()
        child.wait()
        trial.run(grammar("b"))


def test_a_slow_grammar_does_not_hold_up_another() -> None:
    compiler = make(threads=2, timeout_s=3)
    try:
        slow = compiler.submit(grammar(ENDLESS, EBNF))
        assert result(compiler.submit(grammar("quick")))
        assert not slow.done()
        assert isinstance(slow.exception(timeout=60), GrammarError)
    finally:
        compiler.close()


def test_a_trial_dies_with_a_parent_that_was_killed() -> None:
    """The child's own alarm: nobody is left to stop it."""
    trial = Trial(timeout_s=0.2)
    trial.run(grammar("a"))
    child = trial._child
    assert child is not None
    assert child.stdin is not None
    child.stdin.write(b'{"kind": "ebnf", "source": %s}\n' % _as_json(ENDLESS))
    child.stdin.flush()
    assert child.wait(timeout=60) == -signal.SIGALRM
    trial._end()


def _as_json(text: str) -> bytes:
    return b'"' + text.replace("\n", "\\n").encode() + b'"'


def test_equal_grammars_are_compiled_once(compiler: Compiler) -> None:
    first = compiler.submit(grammar("once"))
    assert compiler.submit(grammar("once")) is first
    result(first)
    assert compiler.submit(grammar("once")) is first
    assert compiler.submit(grammar("once", EBNF)) is not first


def test_the_grammar_unused_for_longest_is_forgotten() -> None:
    compiler = make(max_kept=2)
    try:
        one = compiler.submit(grammar("one"))
        two = compiler.submit(grammar("two"))
        compiler.submit(grammar("one"))
        compiler.submit(grammar("three"))
        assert compiler.submit(grammar("one")) is one
        assert compiler.submit(grammar("two")) is not two
    finally:
        compiler.close()


def test_no_more_wait_than_are_let() -> None:
    reading = threading.Event()

    def slow_tokenizer() -> Tokenizer:
        reading.wait(timeout=60)
        return tokenizer()

    compiler = Compiler(slow_tokenizer, 400, threads=1, max_waiting=2)
    try:
        running = compiler.submit(grammar("a"))
        _until(compiler._waiting.empty)
        waiting = [compiler.submit(grammar(letter)) for letter in "bc"]
        with pytest.raises(Overloaded):
            compiler.submit(grammar("d"))
        reading.set()
        assert all(result(future) for future in (running, *waiting))
        assert result(compiler.submit(grammar("d")))
    finally:
        reading.set()
        compiler.close()


def test_the_tokenizer_is_read_for_the_first_grammar_and_only_then() -> None:
    times_read = list[int]()

    def counted() -> Tokenizer:
        times_read.append(1)
        return tokenizer()

    compiler = Compiler(counted, 400, threads=2)
    try:
        assert not times_read
        for future in [compiler.submit(grammar(letter)) for letter in "abcd"]:
            result(future)
        assert len(times_read) == 1
    finally:
        compiler.close()


def test_closing_leaves_no_child_and_no_thread_behind() -> None:
    others = _children()
    compiler = make(threads=2)
    for future in [compiler.submit(grammar(letter)) for letter in "abcd"]:
        result(future)
    threads = list(compiler._threads)
    assert len(threads) == 2
    assert _children() > others
    compiler.close()
    assert not any(thread.is_alive() for thread in threads)
    assert _children() == others


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GrammarError, match=r"triptych\[structured\]"):
        make().submit(grammar("a"))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _children() -> set[int]:
    """Of all threads: each has its own."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(child) for listed in lists for child in listed.read_text().split()}
