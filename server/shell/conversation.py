"""`triptych chat`: what was said, and the lines that are typed to go on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from server.shell.terminal import complain, show

if TYPE_CHECKING:
    from triptych_client import Client, Message, Options

CHAT_HELP = "/exit leaves, /clear forgets what was said, Ctrl-C stops an answer"


class Conversation:
    """What was said so far; the server remembers nothing."""

    def __init__(self, client: Client, options: Options, *, system: str | None) -> None:
        self._client, self._options = client, options
        self._opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._said = self._opening

    def clear(self) -> None:
        self._said = self._opening

    def with_question(self, question: str) -> list[Message]:
        return [*self._said, {"role": "user", "content": question}]

    def ask(self, question: str) -> None:
        """Prints the answer as it comes. One that breaks off is remembered as far as it got."""
        messages = self.with_question(question)
        heard = ""
        try:
            with self._client.stream_chat(messages, **self._options) as stream:
                for piece in stream:
                    show(piece.text)
                    heard += piece.text
        finally:
            if heard:
                self._said = [*messages, {"role": "assistant", "content": heard}]


def converse(conversation: Conversation) -> None:
    """Answers every line, until `/exit` or the end of the input."""
    from triptych_client import TriptychError

    for line in _lines():
        if line == "/exit":
            return
        if line == "/clear":
            conversation.clear()
        elif re.fullmatch(r"/\w*", line):
            print(f"{line} is no command: {CHAT_HELP}")
        elif line:
            try:
                conversation.ask(line)
            except KeyboardInterrupt:
                show(" [stopped]")
            except TriptychError as error:  # the conversation goes on: the server may come back
                complain("chat", error, status=1)
            print()


def _lines() -> Iterator[str]:
    """What is typed, line by line, to the end of the input. Ctrl-C drops a line and says how to leave."""
    with suppress(ImportError):  # not on every system
        import readline  # noqa: F401  gives `input` its arrow keys and its history
    prompt = "> " if sys.stdin.isatty() else ""
    if prompt:
        print(CHAT_HELP)
    while True:
        try:
            yield input(prompt).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            print(f"\n{CHAT_HELP}")
