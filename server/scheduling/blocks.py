"""Who holds which KV block, and what the others still hold. Numbers only: the tensors live with the model.

A block is blank, held by one or more sequences, or idle: held by nobody, but its contents are remembered
and can be found again until the space is wanted (cf. Zheng et al. 2023, SGLang, arXiv 2312.07104).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq

from server.scheduling.prefix import Prefix, PrefixNames


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens each; free ones are blank or idle."""

    def __init__(self, num_blocks: int, block_size: int, *, name_bytes: int = 16) -> None:
        """ValueError where a size is not positive. `name_bytes`: how long the names of prefixes are."""
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"{num_blocks} blocks of {block_size} tokens: both must be positive")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._names = PrefixNames(block_size, name_bytes=name_bytes)
        self._holders = [0] * num_blocks
        self._blank = list(range(num_blocks - 1, -1, -1))  # a stack: the last one given back is still warm
        self._idle = OrderedDict[int, None]()  # longest unused first
        self._contents: list[Prefix | None] = [None] * num_blocks
        self._by_name = dict[bytes, int]()

    @property
    def num_free(self) -> int:
        return len(self._blank) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Free blocks whose contents can still be found."""
        return len(self._idle)

    @property
    def num_tokens(self) -> int:
        """The tokens that fit in all blocks together."""
        return self.num_blocks * self.block_size

    def holders(self, block: int) -> int:
        return self._holders[block]

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def name(
        self, chain: list[Prefix], tokens: Seq[int], salt: bytes, *, source: Seq[int] = (), length: int
    ) -> None:
        """Add to `chain` the prefixes that it lacks, one for each full block of the first `length` tokens.

        Only texts of one `salt` and one `source` are found by each other.
        """
        self._names.extend(chain, tokens, salt, source=source, length=length)

    def take(self, count: int) -> list[int] | None:
        """Hold `count` blocks, forgetting what was unused longest; None, and nothing held, if too few."""
        if count > self.num_free:
            return None
        taken = [self._blank.pop() if self._blank else self._forget_oldest() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def find(self, chain: Iterable[Prefix]) -> list[int]:
        """The blocks that hold the head of `chain`, as far as it is remembered. Nothing is held by this."""
        found = list[int]()
        for prefix in chain:
            block = self._by_name.get(prefix.name)
            if block is None or not self._holds(block, prefix):
                break
            found.append(block)
        return found

    def hold(self, blocks: Iterable[int]) -> None:
        """Hold blocks that were found, beside whoever else holds them."""
        for block in blocks:
            self._idle.pop(block, None)
            self._holders[block] += 1

    def remember(self, prefix: Prefix, block: int) -> None:
        """`block`, held and computed, ends `prefix`. Where another block already does, that one stays."""
        assert self._holders[block], f"block {block} is held by nobody"
        if prefix.name not in self._by_name and self._contents[block] is None:
            self._by_name[prefix.name] = block
            self._contents[block] = prefix

    def give_back(self, blocks: Seq[int]) -> None:
        """Let go in reverse, so that the tail of a prefix is forgotten before its head."""
        for block in reversed(blocks):
            assert self._holders[block], f"block {block} was given back twice"
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._contents[block] is None:
                self._blank.append(block)
            else:
                self._idle[block] = None

    def count_freed(self, blocks: Iterable[int], given: Mapping[int, int]) -> int:
        """How many of these would be free if each were given back as often as `given` says."""
        return sum(self._holders[block] == given[block] for block in blocks)

    def count_idle(self, blocks: Iterable[int]) -> int:
        """How many of these are held by nobody."""
        return sum(self._holders[block] == 0 for block in blocks)

    def _holds(self, block: int, prefix: Prefix) -> bool:
        contents = self._contents[block]
        return contents is not None and contents.same(prefix)

    def _forget_oldest(self) -> int:
        block, _ = self._idle.popitem(last=False)
        contents = self._contents[block]
        assert contents is not None
        del self._by_name[contents.name]
        self._contents[block] = None
        return block
