"""How long a step takes by the number of texts and by what they see: a table, and a picture of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from server.settings import BadSetting
from server.shell.measuring.bringing import Brought
from server.shell.measuring.steps import Writer
from server.shell.measuring.timing import median_s

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (64, 128, 256, 512, 1024, 2048, 4096)
VISITS = 2
INCHES = (13.0, 5.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """`steps_s` by (batch, context): seconds. What memory or the model cannot hold is missing."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    steps_s: dict[tuple[int, int], float]


def measure_grid(
    brought: Brought,
    batches: tuple[int, ...],
    contexts: tuple[int, ...],
    *,
    source: int,
    at_least_s: float,
    tell: Callable[[str], None],
) -> Grid:
    """A decode step for each pair, which is measured for so long, in `VISITS`. The better median counts:
    where others are busy for a moment, a single visit would look like a cliff.

    `source`: tokens of each text's source, in an encoder-decoder. Raises BadSetting where nothing fits.
    """
    writer = Writer(brought, tokens=_most_tokens(brought, batches, contexts, source))
    pairs = [(batch, context) for batch in batches for context in contexts]
    fitting = [(batch, context) for batch, context in pairs if writer.fits(batch, context, source)]
    if not fitting:
        raise BadSetting("--grid-batches, --grid-contexts: no such step fits into model and memory")
    writer.fill()
    steps_s = dict[tuple[int, int], float]()
    for visited, (batch, context) in enumerate(fitting * VISITS):
        tell(f"grid, {visited} of {len(fitting) * VISITS}: batch {batch}, context {context}")
        step = writer.decode(batch, context, source)
        seconds = median_s(partial(writer.runner.run, step), at_least_s / VISITS)
        steps_s[batch, context] = min(seconds, steps_s.get((batch, context), seconds))
    return Grid(batches=batches, contexts=contexts, steps_s=steps_s)


def grid_table(grid: Grid) -> Iterator[str]:
    """For a terminal: a line for each batch, milliseconds."""
    yield "ms a step, by batch and context"
    yield f"{'':>6}" + "".join(f"{context:>9}" for context in grid.contexts)
    for batch in grid.batches:
        cells = (grid.steps_s.get((batch, context)) for context in grid.contexts)
        yield f"{batch:>6}" + "".join(f"{'-':>9}" if one is None else f"{1e3 * one:>9.2f}" for one in cells)


def plot_grid(grid: Grid, title: str, path: Path) -> None:
    """Draw it into `path`. Raises PlotUnavailable without matplotlib, OSError."""
    from triptych_client.bench.plot import load_matplotlib

    figure = load_matplotlib().Figure(figsize=INCHES, layout="constrained")
    figure.suptitle(title)
    by_context, by_batch = figure.subplots(1, 2, sharey=True)
    for batch in grid.batches:
        _draw(by_context, {c: s for (b, c), s in grid.steps_s.items() if b == batch}, f"batch {batch}")
    for context in grid.contexts:
        _draw(by_batch, {b: s for (b, c), s in grid.steps_s.items() if c == context}, f"context {context}")
    by_context.set(xlabel="context, tokens", ylabel="ms a step")
    by_batch.set(xlabel="batch")
    figure.savefig(path)


def _draw(axes: Any, series: dict[int, float], label: str) -> None:
    axes.loglog(list(series), [1e3 * one for one in series.values()], ".-", base=2, label=label)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def _most_tokens(brought: Brought, batches: tuple[int, ...], contexts: tuple[int, ...], source: int) -> int:
    """Of the largest step, as far as the model can see."""
    most = max((one for one in contexts if one <= brought.weights.config.context_length), default=1)
    return max(batches) * (most + source + 32)
