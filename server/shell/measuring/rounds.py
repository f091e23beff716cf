"""What `triptych bench --offline` measures, one thing after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.loading import LoadedEncoder
from server.hosting import BLOCK_SIZE
from server.settings import BadSetting
from server.shell.measuring import grid
from server.shell.measuring.bringing import Brought
from server.shell.measuring.grid import Grid, measure_grid
from server.shell.measuring.speeds import (
    PROMPT_TOKENS,
    Bandwidth,
    Decoding,
    Encoding,
    Prefill,
    Speeds,
    bandwidth,
    encode,
    usual,
)
from server.shell.measuring.steps import Reader, Writer, check_length

BATCHES, NEW_TOKENS, PROMPT = (1, 8, 32), 128, 512
TEXTS, LENGTHS = (1, 32), (32, 128)
ENCODING_S = 1.5  # that each number of texts is encoded, at least

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridWishes:
    """`at_least_s`: how long each pair is measured."""

    batches: tuple[int, ...] | None = None
    contexts: tuple[int, ...] | None = None
    at_least_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is measured; None: as usual for the model. `lengths` are an encoder's, the last three not."""

    batches: tuple[int, ...] | None = None
    lengths: tuple[int, ...] | None = None
    tokens: int | None = None
    prompt: int | None = None
    grid: GridWishes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of an encoder only `encoding`, of others the rest; an encoder-decoder's `prefill` is of a source."""

    bandwidth: Bandwidth | None = None
    decoding: tuple[Decoding, ...] = ()
    prefill: Prefill | None = None
    grid: Grid | None = None
    encoding: tuple[Encoding, ...] = ()


def measure(brought: Brought, wishes: Wishes, tell: Tell) -> Measured:
    """`tell` is told what is being measured.

    Raises BadSetting where a wish is for another kind of model, or too much for this one; NotEnoughMemory.
    """
    if isinstance(brought.weights, LoadedEncoder):
        return _measure_encoder(brought, wishes, tell)
    return _measure_writer(brought, wishes, tell)


def _measure_encoder(brought: Brought, wishes: Wishes, tell: Tell) -> Measured:
    for flag, wish in (("--tokens", wishes.tokens), ("--prompt", wishes.prompt), ("--grid", wishes.grid)):
        if wish is not None:
            raise BadSetting(f"{flag}: {brought.name} is an encoder; --lengths says how long its texts are")
    reader = Reader(brought)
    most = reader.config.context_length
    lengths = wishes.lengths or tuple(sorted({min(one, most) for one in LENGTHS}))
    check_length("--lengths", lengths, most)
    encoding = []
    for length in lengths:
        for texts in wishes.batches or TEXTS:
            tell(f"{texts} texts of {length} tokens")
            encoding.append(encode(brought, reader, texts, length, at_least_s=ENCODING_S))
    return Measured(encoding=tuple(encoding))


def _measure_writer(brought: Brought, wishes: Wishes, tell: Tell) -> Measured:
    if wishes.lengths is not None:
        raise BadSetting(f"--lengths: {brought.name} is no encoder; --prompt and --tokens are for it")
    batches = wishes.batches or BATCHES
    rooms = (max(batches) * (PROMPT_TOKENS + (wishes.tokens or NEW_TOKENS)), wishes.prompt or PROMPT)
    writer = Writer(brought, tokens=max(rooms) + 2 * BLOCK_SIZE * max(batches))
    prompt, tokens = _lengths(writer, wishes)
    writer.check_prompt("--prompt", prompt, new_tokens=1)
    writer.check_batches(batches, *writer.extent(PROMPT_TOKENS, tokens))
    speeds, decoding = Speeds(brought, writer), []
    tell("memory")
    limits = [bandwidth(brought, writer)]
    for batch in batches:
        tell(f"decode, batch {batch}")
        decoding.append(speeds.decode(batch, tokens))
        limits.append(bandwidth(brought, writer))
    tell(f"prompt of {prompt}")
    prefill = speeds.prefill(prompt)
    steps = None if wishes.grid is None else _measure_grid(brought, wishes.grid, prompt, writer, tell)
    return Measured(bandwidth=usual(limits), decoding=tuple(decoding), prefill=prefill, grid=steps)


def _lengths(writer: Writer, wishes: Wishes) -> tuple[int, int]:
    """Tokens of the prompt, and new ones of each text: as many as usual, or as the model takes.

    Raises BadSetting where more are wished for.
    """
    context = writer.config.context_length
    longest = writer.longest_prompt if writer.reads_sources else context - 1
    most = context - (1 if writer.reads_sources else PROMPT_TOKENS)
    prompt = wishes.prompt or min(PROMPT, longest)
    tokens = wishes.tokens or min(NEW_TOKENS, most)
    check_length("--prompt", [prompt], longest)
    check_length("--tokens", [tokens], most)
    return prompt, tokens


def _measure_grid(brought: Brought, wishes: GridWishes, prompt: int, writer: Writer, tell: Tell) -> Grid:
    return measure_grid(
        brought,
        wishes.batches or grid.BATCHES,
        wishes.contexts or grid.CONTEXTS,
        source=prompt if writer.reads_sources else 0,
        at_least_s=wishes.at_least_s,
        tell=tell,
    )
