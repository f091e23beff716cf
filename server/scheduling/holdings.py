"""What each sequence holds of the block pool: found, grown, remembered, given back."""

from __future__ import annotations

from server.scheduling.beams import Search
from server.scheduling.blocks import BlockPool
from server.scheduling.inflight import InFlight
from server.scheduling.sequence import Sequence


class Holdings:
    """The only one who gives blocks to sequences and takes them away."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._in_flight = InFlight()

    def find(self, sequence: Sequence) -> list[int]:
        """The blocks that hold its text already, as far as it may use them. Nothing is held by this."""
        self._name(sequence, length=len(sequence.tokens))
        return self._pool.find(sequence.chain[: self._findable(sequence)])

    def waits(self, sequence: Sequence, found: int) -> bool:
        """Whether it is better off waiting, as what comes after `found` blocks is being computed just now."""
        name = self._in_flight.awaited(sequence, sequence.chain[found : self._findable(sequence)])
        if name is not None:
            self._in_flight.wait(sequence, name)
        return name is not None

    def most(self, sequence: Sequence, length: int) -> int:
        """Blocks that it can hold at most while its text is no longer than `length`, prompt included.

        Those of its source count; and branches share what full blocks of the prompt there are, no more.
        """
        memory = self._pool.blocks_for(len(sequence.source))
        shared = sequence.prompt_length // self._pool.block_size
        return memory + shared + sequence.greatest_width * (self._pool.blocks_for(length) - shared)

    def missing(self, sequence: Sequence, found: list[int]) -> int:
        """How many blocks too few are free for its source, all its tokens and the first of each branch, given
        those found; 0 or less: it fits."""
        branching = sequence.greatest_width > 1
        wanted = self.most(sequence, len(sequence.tokens) + branching) - len(found)
        return wanted + self._pool.count_idle(found) - self._pool.num_free

    def begin(self, sequence: Sequence, found: list[int]) -> None:
        """It starts with the blocks found, computes the rest of its text, and encodes its source.

        There must be room: nothing is missing.
        """
        self._pool.hold(found)
        memory = self._pool.take(self._pool.blocks_for(len(sequence.source)))
        assert memory is not None, "a seat was given without room for the source"
        sequence.memory = memory
        sequence.blocks = list(found)
        sequence.computed = len(found) * self._pool.block_size
        self._in_flight.begin(sequence, sequence.chain[len(found) :])

    def room(self, sequence: Sequence) -> int:
        """Tokens that it could still add if it got every free block."""
        held = len(sequence.blocks) + self._pool.num_free
        return held * self._pool.block_size - sequence.computed

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """Hold enough for so many more tokens; False, and nothing changes, if too few blocks are free."""
        if sequence.search is not None:
            return self._grow_branches(sequence, sequence.search)
        missing = self._pool.blocks_for(sequence.computed + tokens) - len(sequence.blocks)
        if missing <= 0:
            return True
        new = self._pool.take(missing)
        if new is None:
            return False
        sequence.blocks += new
        return True

    def prune(self, sequence: Sequence, search: Search) -> None:
        """Give back what no branch needs any more."""
        needed = {block for branch in search.branches for block in branch.table}
        self._pool.give_back([block for block in sequence.blocks if block not in needed])
        sequence.blocks = [block for block in sequence.blocks if block in needed]

    def remember(self, sequence: Sequence, since: int) -> list[Sequence]:
        """Its tokens from `since` up to `computed` are in the cache now. Returns who waited for that."""
        waiters = list[Sequence]()
        full = range(since // self._pool.block_size, sequence.computed // self._pool.block_size)
        if not full:
            return waiters
        self._name(sequence, length=sequence.computed)
        for number in full:
            self._pool.remember(sequence.chain[number], sequence.blocks[number])
            waiters += self._in_flight.computed(sequence, sequence.chain[number])
        return waiters

    def release(self, sequence: Sequence) -> list[Sequence]:
        """Give everything back. Returns who waited for what it has not computed."""
        self._pool.give_back(sequence.held)
        sequence.blocks, sequence.memory = [], []
        sequence.encoded = False
        return self._in_flight.end(sequence)

    def _grow_branches(self, sequence: Sequence, search: Search) -> bool:
        """By a token each: with the block that it goes to, where that is not theirs alone yet."""
        number = sequence.computed // self._pool.block_size
        needing = search.needing(number)
        new = self._pool.take(len(needing))
        if new is None:
            return False
        search.equip(needing, new, number)
        sequence.blocks += new
        return True

    def _name(self, sequence: Sequence, *, length: int) -> None:
        self._pool.name(sequence.chain, sequence.tokens, sequence.salt, source=sequence.source, length=length)

    def _findable(self, sequence: Sequence) -> int:
        return sequence.findable // self._pool.block_size
