"""Steps as a server's scheduler would plan them, made at once: nothing need be generated before.

How long a step takes does not depend on what is in the cache, only on how much of it is read.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count

from models.kv_cache import KVCache
from models.loading import LoadedDecoder, LoadedEncoder, LoadedSeq2Seq
from server.execution.computing import Threaded
from server.execution.device import NotEnoughMemory, allocating
from server.execution.encoding import EncoderRunner
from server.execution.generation import DecoderRunner
from server.execution.runner import Runner
from server.hosting import BLOCK_SIZE, MAX_PASSAGES
from server.request import EmbedWork, Sampling
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, EncodeStep, Slice
from server.scheduling.sequence import Passage
from server.scheduling.sequence import Sequence as Text
from server.settings import BadSetting
from server.shell.measuring.bringing import Brought

GREEDY = Sampling(temperature=0.0)


class Writer:
    """A decoder, or an encoder-decoder, with a cache for some texts.

    In an encoder-decoder, a prompt is the source: the answer begins with a token of its own.
    """

    def __init__(self, brought: Brought, *, tokens: int) -> None:
        """With room for `tokens` of texts that end at the ends of blocks, or for as many as memory holds.

        Raises NotEnoughMemory where that is not a block.
        """
        assert not isinstance(brought.weights, LoadedEncoder)
        weights = brought.weights
        model = weights.decoder if isinstance(weights, LoadedDecoder) else weights.model
        decoder = weights.decoder if isinstance(weights, LoadedDecoder) else weights.model.decoder
        self.name, self.config = brought.name, decoder.config
        self._brought = brought
        self._start = weights.config.start if isinstance(weights, LoadedSeq2Seq) else None
        self._source_length = (
            weights.config.encoder.context_length if isinstance(weights, LoadedSeq2Seq) else 0
        )
        self._cache = _cache(brought, tokens, for_kernels=decoder.program is not None)
        self._order = random.Random(0).sample(range(self._cache.num_blocks), self._cache.num_blocks)
        self._random = random.Random(1)
        self.runner = Runner(
            {
                self.name: DecoderRunner(
                    model, self._cache, brought.computing.device, kernels=brought.computing.kernels
                )
            }
        )

    @property
    def reads_sources(self) -> bool:
        return self._start is not None

    @property
    def longest_prompt(self) -> int:
        return self._source_length or self.config.context_length

    def lane(self, streams: int) -> GenerationLane:
        """As a server's, for so many streams at once, without guesses: each step is one token of each."""
        return GenerationLane(
            self.name,
            BlockPool(self._cache.num_blocks, BLOCK_SIZE),
            max_batch_tokens=self._brought.step_tokens,
            max_sequences=streams,
            speculation=False,
            sources=self.reads_sources,
        )

    def text(self, id_: int, *, prompt: int, new_tokens: int) -> Text:
        """One to be generated behind a prompt that no other resembles."""
        tokens = self._tokens(prompt)
        return Text(
            id=id_,
            tokens=tokens if self._start is None else [self._start],
            source=() if self._start is None else tuple(tokens),
            max_new_tokens=new_tokens,
            sampling=GREEDY,
        )

    def extent(self, prompt: int, new_tokens: int) -> tuple[int, int]:
        """Tokens that the cache has of a text in the end: of its own, and of its source."""
        return (1 + new_tokens, prompt) if self.reads_sources else (prompt + new_tokens, 0)

    def fits(self, batch: int, context: int, source: int = 0) -> bool:
        """Whether so many texts do at once, and one of them into the model."""
        blocks = batch * (-(-context // BLOCK_SIZE) - (-source // BLOCK_SIZE))
        return blocks <= self._cache.num_blocks and context <= self.config.context_length

    def check_batches(self, batches: Sequence[int], context: int, source: int = 0) -> None:
        """Raises BadSetting naming the first that does not fit."""
        for batch in batches:
            if not self.fits(batch, context, source):
                raise BadSetting(f"--batches {batch}: so many texts do not fit into the cache: --kv-memory")

    def check_prompt(self, flag: str, prompt: int, new_tokens: int) -> None:
        """Raises BadSetting where it does not fit, with what comes behind it."""
        if not self.fits(1, *self.extent(prompt, new_tokens)):
            raise BadSetting(f"{flag} {prompt}: it does not fit into the cache: --kv-memory")

    def decode(self, batch: int, context: int, source: int = 0) -> DecodeStep:
        """One more token of each of `batch` texts, which see `context` of their own, the new one included.

        `source`: tokens of each one's source, in an encoder-decoder. They must fit.
        """
        blocks = iter(self._order)
        slices = []
        for id_ in range(batch):
            text = Text(id=id_, tokens=self._tokens(context), max_new_tokens=1, sampling=GREEDY)
            text.blocks = _take(blocks, context)
            text.source, text.memory, text.encoded = tuple(self._tokens(source)), _take(blocks, source), True
            slices.append(Slice(text, context - 1, 1))
        return DecodeStep(model=self.name, slices=tuple(slices))

    def read(self, prompt: int) -> list[DecodeStep]:
        """A prompt in as many steps as a server reads it; a source in one. It must fit."""
        text = self.text(0, prompt=prompt, new_tokens=1)
        blocks = iter(self._order)
        text.memory = _take(blocks, len(text.source))
        text.blocks = _take(blocks, len(text.tokens))
        if self.reads_sources:
            return [DecodeStep(model=self.name, slices=(Slice(text, 0, 1, encodes=True),))]
        most = self._brought.step_tokens
        cuts = [(start, min(most, prompt - start)) for start in range(0, prompt, most)]
        return [DecodeStep(model=self.name, slices=(Slice(text, *cut),)) for cut in cuts]

    def fill(self) -> None:
        """Put random numbers into the cache: memory that was never written is no memory yet."""
        for layer in (*self._cache.keys, *self._cache.values):
            layer[1:] = layer[0].normal_()  # the same in every block: drawing takes long

    def _tokens(self, count: int) -> list[int]:
        return self._random.choices(range(self.config.vocab_size), k=count)


class Reader:
    """An encoder, which makes a vector of each text."""

    def __init__(self, brought: Brought) -> None:
        weights = brought.weights
        assert isinstance(weights, LoadedEncoder)
        self.name, self.config = brought.name, weights.config
        self._most_tokens = 2 * brought.step_tokens
        self._random, self._ids = random.Random(1), count()
        runner = EncoderRunner(weights.encoder, None, weights.sentence, brought.computing.device)
        self.runner = Runner({self.name: Threaded(runner, brought.computing, weights)})

    def lane(self) -> EncodingLane:
        """As a server's."""
        return EncodingLane(self.name, max_batch_tokens=self._most_tokens, max_passages=MAX_PASSAGES)

    def passages(self, texts: int, length: int) -> list[Passage]:
        """Texts of `length` tokens each."""
        tokens = range(self.config.vocab_size)
        return [
            Passage(
                id=next(self._ids), tokens=tuple(self._random.choices(tokens, k=length)), work=EmbedWork()
            )
            for _ in range(texts)
        ]

    def encode(self, texts: int, length: int) -> list[EncodeStep]:
        """As many steps as a server encodes them in."""
        lane = self.lane()
        for passage in self.passages(texts, length):
            lane.add(passage)
        return list(iter(lane.next_step, None))


def check_length(flag: str, lengths: Sequence[int], most: int) -> None:
    """Raises BadSetting naming the first length that is too much."""
    for length in lengths:
        if length > most:
            raise BadSetting(f"{flag} {length}: this model takes {most} tokens")


def _cache(brought: Brought, tokens: int, *, for_kernels: bool) -> KVCache:
    assert not isinstance(brought.weights, LoadedEncoder)
    weights = brought.weights
    config = weights.config if isinstance(weights, LoadedDecoder) else weights.config.decoder
    cost = KVCache.bytes_per_block(config, BLOCK_SIZE, brought.computing.dtype, for_kernels=for_kernels)
    blocks = min(-(-tokens // BLOCK_SIZE), brought.cache_memory // cost)
    if not blocks:
        raise NotEnoughMemory(f"--kv-memory: {brought.cache_memory} bytes hold no block of {cost}")
    with allocating(f"{blocks} blocks of cache"):
        return KVCache(
            config,
            num_blocks=blocks,
            block_size=BLOCK_SIZE,
            device=brought.computing.device,
            dtype=brought.computing.dtype,
            for_kernels=for_kernels,
        )


def _take(blocks: Iterator[int], tokens: int) -> list[int]:
    return [next(blocks) for _ in range(-(-tokens // BLOCK_SIZE))]
