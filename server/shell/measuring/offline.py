"""`triptych bench --offline`: how fast a model is by itself, in this process and without HTTP."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server.settings import BadSetting, read
from server.shell.measuring import arguments

if TYPE_CHECKING:
    from server.shell.measuring.rounds import Wishes

OFFLINE = "--offline"
PICTURES = (".png", ".svg", ".pdf")


def main(typed: Sequence[str], program: str) -> int:
    """Prints what is measured; the exit status. Raises BadSetting and ModelError."""
    flags = _parser(program).parse_args(typed)
    _check_plot(flags)
    from server.execution.device import DeviceError
    from server.shell.measuring.bringing import bring
    from server.shell.measuring.report import as_json, lines
    from server.shell.measuring.rounds import measure
    from server.shell.progress import Progress, show_log

    show_log()
    progress = Progress()
    try:
        brought = bring(read(vars(flags)), flags.source)
        measured = measure(brought, _wishes(flags), progress)
    except DeviceError as error:
        raise BadSetting(str(error)) from error
    finally:
        progress.clear()
    print("\n".join([brought.title, *lines(measured)]))
    if flags.json is not None:
        flags.json.write_text(json.dumps(as_json(brought, measured), indent=2) + "\n", encoding="utf-8")
    if flags.plot is not None and measured.grid is not None:
        from server.shell.measuring.grid import plot_grid

        plot_grid(measured.grid, brought.title, flags.plot)
    return 0


def _wishes(flags: argparse.Namespace) -> Wishes:
    from server.shell.measuring.rounds import GridWishes, Wishes

    grid = GridWishes(batches=flags.grid_batches, contexts=flags.grid_contexts, at_least_s=flags.grid_seconds)
    return Wishes(
        batches=flags.batches,
        lengths=flags.lengths,
        tokens=flags.tokens,
        prompt=flags.prompt,
        grid=grid if flags.grid else None,
    )


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{program} {OFFLINE}",
        description="Runs the scheduler and the runner of a server in this process: what a model takes by "
        "itself, beside what memory gives, which is measured too.",
    )
    # It chose this parser, and is not the setting of that name.
    parser.add_argument(OFFLINE, action="store_true", dest="here", help=argparse.SUPPRESS)
    arguments.add_model(parser)
    parser.add_argument(
        "--batches",
        type=arguments.several,
        metavar="N,N…",
        help="texts side by side (1,8,32; of an encoder 1,32)",
    )
    parser.add_argument("--tokens", type=arguments.whole, metavar="N", help="new ones of each text (128)")
    parser.add_argument("--prompt", type=arguments.whole, metavar="N", help="tokens of a prompt (512)")
    parser.add_argument(
        "--lengths", type=arguments.several, metavar="N,N…", help="tokens of an encoder's texts (32,128)"
    )
    _add_grid(parser.add_argument_group("step times of a decoder"))
    arguments.add_json(parser)
    return parser


def _add_grid(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--grid", action="store_true", help="measure steps by batch and context, too")
    group.add_argument("--grid-batches", type=arguments.several, metavar="N,N…", help="(1,2,4,8,16,32,64)")
    group.add_argument(
        "--grid-contexts", type=arguments.several, metavar="N,N…", help="(64,128,256,512,1024,2048,4096)"
    )
    group.add_argument(
        "--grid-seconds",
        type=arguments.seconds,
        default=1.0,
        metavar="S",
        help="how long each pair is measured, at least (1)",
    )
    group.add_argument(
        "--plot", type=_picture, metavar="FILE", help="a picture of the grid (.png, .svg, .pdf)"
    )


def _picture(text: str) -> Path:
    if Path(text).suffix not in PICTURES:
        raise argparse.ArgumentTypeError(f"{text} must end in one of {', '.join(PICTURES)}")
    return arguments.new_file(text)


def _check_plot(flags: argparse.Namespace) -> None:
    """Before anything is measured. Raises BadSetting."""
    grid_only = {
        "--plot": flags.plot,
        "--grid-batches": flags.grid_batches,
        "--grid-contexts": flags.grid_contexts,
    }
    for flag, value in grid_only.items():
        if value is not None and not flags.grid:
            raise BadSetting(f"{flag} is for --grid")
    if flags.plot is None:
        return
    try:
        from triptych_client.bench.plot import PlotUnavailable, load_matplotlib
    except ModuleNotFoundError as error:
        raise BadSetting("--plot needs the client; type: pip install -e 'clients/python[plot]'") from error
    try:
        load_matplotlib()
    except PlotUnavailable as error:
        raise BadSetting(str(error)) from error
