"""The blocks of a decoder or an encoder as a program, and as another that stops where adapters have a say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from models.layers.linear import Linear
from models.layers.lora import Mixing
from models.layers.rotary import RotaryEmbedding
from models.native.library import Library
from models.native.lowering import Lowering, Site
from models.native.program import Program, fits, padded
from models.native.structures import Format, Run


class Stack:
    """`write` says what is done to the stream, given a lowering. Both programs give a row the same bits."""

    def __init__(
        self, library: Library, hidden: int, format_: Format, cache: Format, write: Callable[[Lowering], None]
    ) -> None:
        self._library = library
        self._hidden = hidden
        self._format, self._cache = format_, cache
        self._write = write
        self.plain = self._lower(adapters=False)

    def run(self, hidden: Tensor, run: Run, mixing: Mixing | None) -> Tensor:
        """hidden [T, hidden] -> the stream afterwards [T, hidden], float32. `hidden` is used up: the stream
        may lie in its place."""
        if mixing is not None:
            return self._run_with_adapters(hidden, run, mixing)
        lowered = self.plain
        stream = hidden
        if not fits(hidden, lowered.stream):
            stream = torch.zeros(run.tokens, lowered.stream.width)
            stream[:, : self._hidden] = hidden
        lowered.program.run(run, results={lowered.stream: stream})
        return stream if stream is hidden else stream[:, : self._hidden]

    def _run_with_adapters(self, hidden: Tensor, run: Run, mixing: Mixing) -> Tensor:
        lowered = self._stopping
        stream = lowered.program.rows(lowered.stream, run.tokens)
        stream[:, : self._hidden] = hidden
        _run_changed(lowered, run, mixing)
        return stream[:, : self._hidden].clone()

    @cached_property
    def _stopping(self) -> Lowering:
        return self._lower(adapters=True)

    def _lower(self, *, adapters: bool) -> Lowering:
        program = Program(self._library)
        lowering = Lowering(program, self._hidden, format_=self._format, cache=self._cache, adapters=adapters)
        self._write(lowering)
        return lowering


def turn(run: Run, rotaries: Iterable[nn.Module], positions: Tensor) -> list[Tensor]:
    """Give a run the angles of its tokens, positions [T]. Returns what must outlive the run."""
    kept = [cast(RotaryEmbedding, rotary).look_up(positions) for rotary in rotaries]
    for index, angles in enumerate(kept):
        first = angles.data_ptr()
        run.cosines[index], run.sines[index] = first, first + angles.stride(0) * angles.itemsize
    return kept


def _run_changed(lowered: Lowering, run: Run, mixing: Mixing) -> None:
    first = 0
    for site in lowered.sites:
        if mixing.touches(site.layer.changes):
            lowered.program.run(run, first, site.index + 1)
            _change(lowered.program, site, run.tokens, mixing)
            first = site.index + 1
    lowered.program.run(run, first)


def _change(program: Program, site: Site, tokens: int, mixing: Mixing) -> None:
    """What adapters add to the output of one layer. Halves of a gated one lie apart."""
    layer = site.layer
    input = program.rows(site.input, tokens)[:, : layer.in_features]
    output = program.rows(site.output, tokens)
    added = torch.zeros(tokens, layer.out_features)
    mixing.add(layer.changes, input, added)
    for place, size in _places(layer):
        part, added = added.split_with_sizes((size, added.shape[1] - size), dim=1)
        output[:, place : place + size] += part


def _places(layer: Linear) -> Sequence[tuple[int, int]]:
    """Where the outputs of a layer lie in a buffer, and how many lie there."""
    assert layer.matrix is not None
    if not layer.matrix.gated:
        return [(0, layer.out_features)]
    half = layer.out_features // 2
    return [(0, half), (padded(half), half)]
