"""The command `triptych`.

Each command imports what it needs when it runs: `--help` takes no time, and `serve` starts its engine at
once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Never

from models.errors import ModelError
from server import shell
from server.errors import ServerError
from server.settings import BadSetting, add_flags, read
from server.shell import evaluate


class _Version(argparse.Action):
    """Prints the installed version, and leaves."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> Never:
        from importlib.metadata import version

        print(f"triptych {version('triptych')}")
        parser.exit()


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit status: 0 done, 1 it failed, 2 it was not understood."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except BadSetting as error:
        print(f"triptych: {error}", file=sys.stderr)
        return 2
    except (ModelError, ServerError) as error:
        print(f"triptych: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="triptych", description="Serves models, and talks to a server.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version that is installed")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = commands.add_parser(
        "serve", help="serve models over HTTP", description="With no --model: a small GPT and a small BERT."
    )
    add_flags(serve)
    serve.set_defaults(run=_serve)
    pull = commands.add_parser("pull", help="download a model into the cache")
    pull.add_argument("source", metavar="SOURCE", help="a hub id, or the name of a default model")
    add_flags(pull, ("cache", "offline"))
    pull.set_defaults(run=_pull)
    models = commands.add_parser("models", help="list the default models, what is cached, what is supported")
    add_flags(models, ("cache",))
    models.add_argument(
        "--supported",
        nargs="?",
        const="text",
        choices=("text", "markdown"),
        help="list every family of models that can be served instead, as text or as Markdown",
    )
    models.set_defaults(run=_models)
    evaluate.add_command(commands)
    shell.add_commands(commands)
    return parser


def _serve(parsed: argparse.Namespace) -> int:
    from server.start import serve

    return serve(read(vars(parsed)))


def _pull(parsed: argparse.Namespace) -> int:
    from models.weights.sources import resolve

    settings = read(vars(parsed))
    print(resolve(parsed.source, cache=settings.cache, offline=settings.offline))
    return 0


def _models(parsed: argparse.Namespace) -> int:
    if parsed.supported:
        from server.shell import supported

        print(supported.markdown() if parsed.supported == "markdown" else supported.text())
        return 0
    from models.weights.sources import DEFAULTS

    cache = read(vars(parsed)).cache
    for default in DEFAULTS.values():
        path = default.path(cache)
        size = _size(path) if path.exists() else "not fetched"
        print(f"{default.name:40} {size:>12}  default, {default.source}")
    for folder in sorted((cache / "hub").glob("*--*")):
        print(f"{folder.name.replace('--', '/', 1):40} {_size(folder):>12}  {folder}")
    return 0


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f} MB"
