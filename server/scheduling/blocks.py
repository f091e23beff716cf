"""Who owns which KV block. Numbers only: the tensors they stand for live with the model."""

from __future__ import annotations

from collections.abc import Sequence as Seq


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens each; a block is free, or held by one sequence."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: the last one given back is still warm
        self._held = bytearray(num_blocks)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_tokens(self) -> int:
        """The tokens that fit in all blocks together."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def take(self, count: int) -> list[int] | None:
        """Hold `count` blocks; None, and nothing held, if there are too few."""
        if count > len(self._free):
            return None
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._held[block] = 1
        return taken

    def give_back(self, blocks: Seq[int]) -> None:
        for block in reversed(blocks):
            assert self._held[block], f"block {block} was given back twice"
            self._held[block] = 0
            self._free.append(block)
