"""Prefixes that are being computed right now, and who waits for them rather than compute them again.

Several samples of one prompt, or a burst with one system prompt, so cost that prompt once. Nobody waits for
one of lower priority; and whoever computes lets go of its waiters when it ends, however it ends, so that
waiting never outlasts the work that it is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

from server.scheduling.prefix import Prefix
from server.scheduling.sequence import Sequence


class InFlight:
    """Running sequences, by the names of the prefixes they compute; waiting ones, by the name they need."""

    def __init__(self) -> None:
        self._computing = dict[bytes, Sequence]()
        self._names = dict[int, set[bytes]]()  # of what each sequence computes, by its id
        self._waiters = dict[bytes, list[Sequence]]()

    def begin(self, sequence: Sequence, prefixes: Iterable[Prefix]) -> None:
        """`sequence` computes `prefixes` from now on, those that nobody else does."""
        names = {prefix.name for prefix in prefixes if prefix.name not in self._computing}
        self._computing.update(dict.fromkeys(names, sequence))
        self._names[sequence.id] = names

    def awaited(self, sequence: Sequence, missing: Seq[Prefix]) -> bytes | None:
        """The last name worth waiting for, given the prefixes that `sequence` lacks; None: none is."""
        last = None
        for prefix in missing:
            other = self._computing.get(prefix.name)
            if other is None or other.priority < sequence.priority:
                break
            last = prefix.name
        return last

    def wait(self, sequence: Sequence, name: bytes) -> None:
        self._waiters.setdefault(name, []).append(sequence)

    def computed(self, sequence: Sequence, prefix: Prefix) -> list[Sequence]:
        """That much is done; returns who waited for it."""
        names = self._names.get(sequence.id)
        if names is None or prefix.name not in names:
            return []
        names.remove(prefix.name)
        return self._release(prefix.name)

    def end(self, sequence: Sequence) -> list[Sequence]:
        """It computes no more; returns all who still waited."""
        return [one for name in self._names.pop(sequence.id, ()) for one in self._release(name)]

    def _release(self, name: bytes) -> list[Sequence]:
        del self._computing[name]
        return self._waiters.pop(name, [])
