"""What both commands take: a model, whole numbers separated by commas, files to write."""

from __future__ import annotations

import argparse
from pathlib import Path

from server.settings import add_flags

SETTINGS = ("device", "dtype", "quantize", "threads", "kernels", "kv_memory", "max_batch_tokens", "cache")
_MOST = 1 << 20


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, and the settings that `triptych serve` would load it with."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="MODEL",
        help="a folder, a .gguf file, a hub id, the name of a default model (the default decoder)",
    )
    add_flags(parser, SETTINGS)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=new_file, metavar="FILE", help="the same numbers, and in seconds")


def whole(text: str) -> int:
    """One whole number."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {_MOST}")
    return int(text)


def several(text: str) -> tuple[int, ...]:
    """One or several whole numbers, rising, each once: 1,8,32."""
    return tuple(sorted({whole(one.strip()) for one in text.split(",")}))


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 600.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to 600")
    return value


def new_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: its folder is missing, or it is one")
    return path
