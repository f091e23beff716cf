"""Paged attention equals attention written out plainly, however the cache and the step are cut."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from models.invariance import keeps_its_bits
from models.kv_cache import KVCache
from models.layers.rotary import RotaryEmbedding, frequencies
from models.ops import packed
from models.ops.attention import Shape, Sight, attend, places, plan, write
from models.ops.packed import Packing
from models.ops.paging import Paging
from models.positions import LinearScaling, Llama3Scaling, Rotary
from tests.models.paged import CPU
from tests.models.test_batch_invariance import LLAMA

HEADS, KV_HEADS, SIZE = 6, 2, 16
Slice = tuple[int, int, int]  # text, start, count


def plain_attention(query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
    """Vaswani et al. 2017, eq. 1, causal: query [T, heads, size], key and value [T, kv_heads, size]."""
    key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
    distance = torch.arange(len(query))[:, None] - torch.arange(len(key))
    seen = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), value)


class Cached:
    """A few texts with random queries, keys and values, computed through a paged cache in chosen slices."""

    def __init__(
        self,
        lengths: list[int],
        *,
        block_size: int,
        window: int | None,
        heads: int = HEADS,
        kv_heads: int = KV_HEADS,
        size: int = SIZE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        torch.manual_seed(0)
        self.block_size, self.window, self.heads, self.dtype = block_size, window, heads, dtype
        shapes = [(heads, size), (kv_heads, size), (kv_heads, size)]
        self.texts = [[torch.randn(n, *shape).to(dtype) for shape in shapes] for n in lengths]
        needed = [-(-n // block_size) for n in lengths]
        blocks = random.Random(0).sample(range(2 * sum(needed)), sum(needed))
        self.tables = [[blocks.pop() for _ in range(count)] for count in needed]
        cached = (2 * sum(needed), kv_heads, block_size, size)  # full of what others left there
        self.keys, self.values = (torch.full(cached, 7.0, dtype=dtype) for _ in range(2))

    def step(self, slices: list[Slice]) -> list[Tensor]:
        """Slices of (text, start, count) -> the attended part of each."""
        paging = Paging(
            [self.tables[text] for text, _, _ in slices],
            [start for _, start, _ in slices],
            [count for _, _, count in slices],
            self.block_size,
            CPU,
        )
        kv_heads, head_dim = self.keys.shape[1], self.keys.shape[-1]
        shape = Shape(heads=self.heads, kv_heads=kv_heads, head_dim=head_dim, dtype=self.dtype)
        (planned,) = plan(paging, shape, [Sight(scale=head_dim**-0.5, window=self.window)])
        query, key, value = (
            torch.cat([self.texts[text][part][start : start + count] for text, start, count in slices])
            for part in range(3)
        )
        written = places(paging.blocks, paging.offsets, self.block_size, kv_heads)
        write(self.keys, written, key)
        write(self.values, written, value)
        attended = attend(query, self.keys, self.values, planned)
        return list(attended.split_with_sizes([count for _, _, count in slices]))

    def run(self, steps: list[list[Slice]]) -> list[Tensor]:
        """What each text's tokens attend to, over all steps."""
        parts: list[list[Tensor]] = [[] for _ in self.texts]
        for slices in steps:
            for (text, _, _), part in zip(slices, self.step(slices), strict=True):
                parts[text].append(part)
        return [torch.cat(part) for part in parts]

    def expected(self, text: int) -> Tensor:
        query, key, value = self.texts[text]
        return plain_attention(query, key, value, self.window)


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("block_size", [1, 4, 16, 48])
def test_whole_prompts(block_size: int, window: int | None) -> None:
    lengths = [1, 3, 40, 129, 300]
    cached = Cached(lengths, block_size=block_size, window=window)
    attended = cached.step([(text, 0, length) for text, length in enumerate(lengths)])
    for text, part in enumerate(attended):
        torch.testing.assert_close(part, cached.expected(text), atol=1e-5, rtol=0)


def random_steps(lengths: list[int], seed: int, counts: list[int]) -> list[list[Slice]]:
    """Every token of every text once, in order, some texts a step."""
    rng, done, steps = random.Random(seed), [0] * len(lengths), list[list[Slice]]()
    while unfinished := [text for text, length in enumerate(lengths) if done[text] < length]:
        chosen = rng.sample(unfinished, rng.randint(1, len(unfinished)))
        slices = [(text, done[text], min(rng.choice(counts), lengths[text] - done[text])) for text in chosen]
        for text, _, count in slices:
            done[text] += count
        steps.append(slices)
    return steps


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", [None, 20])
def test_texts_computed_in_random_slices_beside_each_other(seed: int, window: int | None) -> None:
    lengths = [70, 150, 9, 200]
    cached = Cached(lengths, block_size=8, window=window)
    for text, attended in enumerate(cached.run(random_steps(lengths, seed, [1, 1, 2, 30, 140]))):
        torch.testing.assert_close(attended, cached.expected(text), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [64, 80, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (4, 2), (3, 1), (8, 2), (8, 1)])
def test_slices_of_any_shape_have_the_bits_of_whole_texts_alone(
    heads: int, kv_heads: int, size: int, dtype: torch.dtype
) -> None:
    if not keeps_its_bits(dtype):
        pytest.skip(f"this machine's kernels for {dtype} depend on the batch, and /info says so")
    lengths = [1, 66, 129, 300, 540]  # across tiles of queries, and lengths that contexts are padded to
    for window in (None, 70):
        cached = Cached(
            lengths, block_size=16, window=window, heads=heads, kv_heads=kv_heads, size=size, dtype=dtype
        )
        alone = cached.run([[(text, 0, length)] for text, length in enumerate(lengths)])
        mixed = cached.run(random_steps(lengths, size + heads, [1, 3, 5, 16, 64, 200]))
        for text in range(len(lengths)):
            assert (mixed[text] != alone[text]).flatten(1).any(dim=1).nonzero().flatten().tolist() == []


def test_a_table_may_hold_more_blocks_than_are_used_yet() -> None:
    cached = Cached([40], block_size=4, window=None)
    spare = set(range(len(cached.keys))) - set(cached.tables[0])
    cached.tables[0] += sorted(spare)
    torch.testing.assert_close(cached.step([(0, 0, 40)])[0], cached.expected(0), atol=1e-5, rtol=0)


def test_tiles_that_see_contexts_of_many_lengths_share_the_memory_of_the_longest() -> None:
    blocks, block_size = 128, 16
    paging = Paging([range(blocks)], [0], [blocks * block_size], block_size, CPU)
    shape = Shape(heads=HEADS, kv_heads=KV_HEADS, head_dim=SIZE, dtype=torch.float32)
    (planned,) = plan(paging, shape, [Sight(scale=1.0)])
    gatherings = [tiles.gathering for tiles in planned.tiles]
    assert len({gathering.keys.shape for gathering in gatherings}) > 4
    for memory in ([one.keys for one in gatherings], [one.values for one in gatherings]):
        held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in memory}
        assert [*held.values()] == [max(tensor.nbytes for tensor in memory)]


def test_nothing_but_the_own_slots_is_written() -> None:
    cached = Cached([5], block_size=4, window=None)
    cached.step([(0, 0, 5)])
    written = (cached.keys != 7.0).any(dim=-1).any(dim=1)  # [blocks, block_size]
    first, second = cached.tables[0]
    assert {(first, i) for i in range(4)} | {(second, 0)} == {
        tuple(place) for place in written.nonzero().tolist()
    }


def test_a_table_too_short_and_an_empty_slice_are_refused() -> None:
    with pytest.raises(ValueError, match="2 blocks of 4 do not hold 9 tokens"):
        Paging([[0, 1]], [0], [9], 4, CPU)
    with pytest.raises(ValueError, match="at least one token"):
        Paging([[0]], [0], [0], 4, CPU)


def test_packed_texts_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    lengths = [3, 40, 1, 33, 64]
    query, key, value = (torch.randn(sum(lengths), HEADS, SIZE) for _ in range(3))
    whole = packed.plan(Packing.build(lengths, CPU), packed.Sight(scale=SIZE**-0.5))
    attended = packed.attend(query, key, value, whole).split_with_sizes(lengths)
    texts = zip(*(tensor.split_with_sizes(lengths) for tensor in (query, key, value)), strict=True)
    for part, (q, k, v) in zip(attended, texts, strict=True):
        weights = (torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(SIZE)).softmax(-1)
        torch.testing.assert_close(part, torch.einsum("hqk,khd->qhd", weights, v), atol=1e-5, rtol=0)


def test_a_block_costs_what_the_cache_allocates() -> None:
    cache = KVCache(LLAMA, num_blocks=3, block_size=16, device=CPU, dtype=torch.bfloat16)
    allocated = sum(tensor.numel() * tensor.itemsize for tensor in (*cache.keys, *cache.values))
    assert allocated == 3 * KVCache.bytes_per_block(LLAMA, 16, torch.bfloat16)
    assert cache.keys[0].shape == (3, LLAMA.kv_heads, 16, LLAMA.head_dim)


def test_a_cache_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="0 blocks of 16 tokens"):
        KVCache(LLAMA, num_blocks=0, block_size=16, device=CPU, dtype=torch.bfloat16)


def test_rotation_leaves_only_the_distance() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 32), torch.randn(1, 1, 32)
    rotary = RotaryEmbedding(Rotary(), 32)

    def product(m: int, n: int) -> float:
        turned = (rotary(torch.tensor([place]))(heads) for place, heads in ((m, query), (n, key)))
        return torch.mul(*turned).sum().item()

    assert product(9, 4) == pytest.approx(product(105, 100), abs=1e-4)
    assert product(9, 4) != pytest.approx(product(9, 8), abs=1e-2)


def test_linear_scaling_slows_every_frequency_and_llama3_only_the_low_ones() -> None:
    plain = frequencies(Rotary(), 64)
    assert torch.equal(frequencies(Rotary(scaling=LinearScaling(factor=4.0)), 64), plain / 4)
    llama3 = Llama3Scaling(factor=8.0, low_frequency=1.0, high_frequency=4.0, original_context=512)
    scaled = frequencies(Rotary(scaling=llama3), 64)
    assert torch.equal(scaled[0], plain[0])
    torch.testing.assert_close(scaled[-1], plain[-1] / 8)
