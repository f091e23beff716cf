"""What `triptych bench --offline` says: lines for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.shell.measuring.bringing import Brought
from server.shell.measuring.grid import Grid, grid_table
from server.shell.measuring.rounds import Measured
from server.shell.measuring.speeds import Bandwidth, Decoding, Encoding, Prefill


def lines(measured: Measured) -> Iterator[str]:
    """For a terminal."""
    limit = measured.bandwidth
    if limit is not None:
        yield (
            f"memory  {limit.bytes_per_s / 1e9:.1f} GB/s; weights of {limit.weight_bytes / 1e6:.1f} MB, "
            f"read once: {1e3 * limit.least_s:.2f} ms a step"
        )
    for one in measured.decoding:
        yield f"decode  batch {one.batch:<4}  {_decoding(one, limit)}"
    if measured.prefill is not None:
        yield (
            f"prompt  {measured.prefill.tokens:<10}  {measured.prefill.tokens_per_s:>9,.1f} tok/s  "
            f"first token after {1e3 * measured.prefill.first_token_s:.1f} ms"
        )
    for text in measured.encoding:
        yield (
            f"encode  {text.texts:>4} x {text.length:<4} tokens  {text.texts_per_s:>9,.1f} texts/s  "
            f"{1e3 * text.seconds:>8.2f} ms"
        )
    if measured.grid is not None:
        yield ""
        yield from grid_table(measured.grid)


def _decoding(one: Decoding, limit: Bandwidth | None) -> str:
    said = (
        f"{one.tokens_per_s:>9,.1f} tok/s  {1e3 * one.step_s:>8.2f} ms a step  "
        f"first token after {1e3 * one.first_token_s:.1f} ms"
    )
    alone = one.batch == 1 and limit is not None
    return f"{said}  {limit.least_s / one.step_s:.1%} of the bandwidth limit" if alone and limit else said


def as_json(brought: Brought, measured: Measured) -> dict[str, Any]:
    """The same in seconds and bytes; what was not measured is null, or an empty list."""
    limit = measured.bandwidth
    return {
        **brought.about,
        "memory": None if limit is None else _bandwidth(limit),
        "decode": [_decoded(one, limit) for one in measured.decoding],
        "prompt": None if measured.prefill is None else _prefill(measured.prefill),
        "encode": [_encoded(one) for one in measured.encoding],
        "grid": None if measured.grid is None else _grid(measured.grid),
    }


def _bandwidth(limit: Bandwidth) -> dict[str, float]:
    return {"bytes_per_s": limit.bytes_per_s, "weight_bytes": limit.weight_bytes}


def _decoded(one: Decoding, limit: Bandwidth | None) -> dict[str, float | None]:
    return {
        "batch": one.batch,
        "tokens_per_s": one.tokens_per_s,
        "step": one.step_s,
        "first_token": one.first_token_s,
        "of_bandwidth": None if limit is None or one.batch > 1 else limit.least_s / one.step_s,
    }


def _prefill(prefill: Prefill) -> dict[str, float]:
    return {
        "tokens": prefill.tokens,
        "tokens_per_s": prefill.tokens_per_s,
        "first_token": prefill.first_token_s,
    }


def _encoded(one: Encoding) -> dict[str, float]:
    return {
        "texts": one.texts,
        "length": one.length,
        "texts_per_s": one.texts_per_s,
        "seconds": one.seconds,
    }


def _grid(grid: Grid) -> list[dict[str, float]]:
    return [
        {"batch": batch, "context": context, "step": step_s}
        for (batch, context), step_s in grid.steps_s.items()
    ]
