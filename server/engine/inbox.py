"""The engine process's end of the socketpair, inward: commands, whole, in the order they were sent."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

from server.engine import messages
from server.engine.messages import Command


class Inbox:
    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._received = bytearray()

    def take(self, *, wait_s: float | None) -> list[Command] | None:
        """Every command that has arrived; None when there will be no more.

        If there is none, wait so long for the first: 0 not at all, None forever.
        """
        commands = list[Command]()
        while select.select([self._link], [], [], 0 if commands else wait_s)[0]:
            data = self._link.recv(1 << 20)
            if not data:
                return None
            self._received += data
            commands += self._complete()
        return commands

    def _complete(self) -> Iterator[Command]:
        header = messages.LENGTH.size
        while len(self._received) >= header:
            end = header + messages.LENGTH.unpack(self._received[:header])[0]
            if len(self._received) < end:
                return
            content = bytes(self._received[header:end])
            del self._received[:end]
            yield messages.decode_command(content)
