"""Each new grammar is tried in a process that may die of it.

Compilers recurse, and a grammar can be written for which one never ends. A thread cannot be stopped, and a
stack that overflows takes its process along; so a child tries first, under a limit of time and memory, and
the engine compiles what the child has lived through. It knows bytes instead of tokens, and no torch.
"""

from __future__ import annotations

import json
import resource
import select
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any

from server.errors import EngineFailed
from server.execution.grammars import dialect
from server.grammar import GrammarError
from server.request import Grammar, GrammarKind

STARTUP_S = 60.0  # of a child, on a machine that is busy
GRACE_S = 1.0  # that a child has beyond its parent's patience
MAX_MEMORY = 1 << 30  # bytes
MAX_STACK = 8 << 20  # bytes
STEPS = 16  # bytes of text that a trial goes on for

_END = 256  # the token after those that are bytes


class Trial:
    """The parent's side: one grammar at a time. The child is started for the first, and anew when it died."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, grammar: Grammar) -> None:
        """Raises GrammarError for a grammar that is wrong, takes too long, or kills the child."""
        child = self._living()
        try:
            _send(child, {"kind": grammar.kind.value, "source": grammar.source})
            reply = _receive(child, self._timeout_s)
        except TimeoutError as error:
            self._end()
            raise GrammarError(f"the grammar takes more than {self._timeout_s:g} s to compile") from error
        except (EOFError, BrokenPipeError) as error:
            self._end()
            raise GrammarError("the grammar is too deep or too large to be compiled") from error
        if reply["error"] is not None:
            raise GrammarError(reply["error"])

    def _living(self) -> subprocess.Popen[bytes]:
        """A child may have died since, of something that was no grammar's fault."""
        if self._child is not None and self._child.poll() is not None:
            self._end()
        if self._child is None:
            self._child = self._start()
        return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(self._timeout_s + GRACE_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # Rust's last words, with the caller's grammar in them
        )
        try:
            _receive(child, STARTUP_S)
        except (TimeoutError, EOFError) as error:
            _end(child)
            raise EngineFailed("the process that tries grammars does not start") from error
        return child

    def _end(self) -> None:
        if self._child is None:
            return
        _end(self._child)
        self._child = None


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()  # closes the pipes, and reaps


def _send(child: subprocess.Popen[bytes], message: Any) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps(message).encode() + b"\n")
    child.stdin.flush()


def _receive(child: subprocess.Popen[bytes], timeout_s: float) -> Any:
    """One line of JSON; the child says no more than it is asked for."""
    assert child.stdout is not None
    if not select.select([child.stdout], [], [], timeout_s)[0]:
        raise TimeoutError
    line = child.stdout.readline()
    if not line:
        raise EOFError
    return json.loads(line)


def main() -> None:
    """The child's side: answers each grammar on stdin with what is wrong with it, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends stdin
    _limit(resource.RLIMIT_DATA, MAX_MEMORY)
    _limit(resource.RLIMIT_STACK, MAX_STACK)
    alarm_s = float(sys.argv[1])
    tokenizer = _bytewise()
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, alarm_s)  # kills, should the parent be gone
        grammar = Grammar(kind=GrammarKind(asked["kind"]), source=asked["source"])
        error = _try(grammar, tokenizer)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps({"error": error}), flush=True)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(kind, (most, hard))


def _bytewise() -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()), eos_token=_END, slices=[])


class _Bytes:
    """A tokenizer whose tokens are the bytes."""

    bos_token_id = None
    eos_token_id = _END
    special_token_ids = (_END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<|end|>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _try(grammar: Grammar, tokenizer: Any) -> str | None:
    """Compile it and follow it for some bytes; None if all went well."""
    try:
        parser = dialect.parse(grammar, tokenizer)
    except GrammarError as error:
        return str(error)
    for step in range(STEPS):
        mask = parser.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte // 8] >> (byte % 8) & 1]
        if not allowed:
            break
        parser.consume_token(allowed[step % len(allowed)])
    return str(dialect.uncompiled(parser.get_error(), grammar.kind)) if parser.is_error() else None


if __name__ == "__main__":
    main()
