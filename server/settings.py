"""Every setting of the server, once: its flag, its environment variable, its line in a TOML file.

The only reader of the environment. A flag wins over the environment, that over the file, that over the
default. `--max-batch-tokens`, `TRIPTYCH_MAX_BATCH_TOKENS` and `max_batch_tokens = …` are the same setting.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PREFIX = "TRIPTYCH_"


class BadSetting(Exception):
    """A setting that cannot be used. The message names it, where it came from, and what it may be."""


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return parse


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError("a size such as 512MiB or 4GB")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] or not match[2] else 1000) ** power)


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "0", "true", "false", "yes", "no", "on", "off"):
        raise ValueError("true or false")
    return text.lower() in ("1", "true", "yes", "on")


def _setting(default: object, parse: Callable[[str], Any], help_: str) -> Any:
    return field(default=default, metadata={"parse": parse, "help": help_})


def _repeated(metavar: str, help_: str) -> Any:
    """A setting that may be given several times; in one string, they are separated by spaces."""
    return field(default=(), metadata={"parse": None, "help": f"{help_} (repeatable)", "metavar": metavar})


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "triptych"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    model: tuple[str, ...] = _repeated(
        "SOURCE", "what to serve: a folder, a .gguf file, a hub id, or NAME=SOURCE"
    )
    lora: tuple[str, ...] = _repeated(
        "NAME=FOLDER[@MODEL]", "a LoRA adapter, a PEFT folder; MODEL where several models are served"
    )
    lora_folder: Path | None = field(
        default=None,
        metadata={
            "parse": Path,
            "help": "let clients load adapters from within this folder, by /v1/load_lora_adapter",
        },
    )
    host: str = _setting("127.0.0.1", str, "address to listen on")
    port: int = _setting(8000, _number(0, 65535), "port to listen on; 0 takes a free one")
    device: str = _setting("auto", _choice("auto", "cpu", "cuda"), "where the models run")
    dtype: str = _setting(
        "auto",
        _choice("auto", "float32", "bfloat16", "float16"),
        "precision; auto is bfloat16 where the device computes in it, else float32",
    )
    quantize: str = _setting(
        "auto",
        _choice("auto", "none", "keep", "int8", "int4"),
        "weights of few bits, by our own kernels: auto keeps a GGUF file's own blocks and rounds nothing, "
        "keep insists on blocks, int8 and int4 round, none opens all blocks",
    )
    threads: int | None = _setting(
        None,
        _number(1, 1024),
        "threads that compute on a CPU; by default as many as there are cores that this process may use",
    )
    kernels: str = _setting(
        "auto",
        _choice("auto", "avx512", "avx2", "plain", "torch"),
        "what computes on a CPU: our own kernels, the best that it can run, or PyTorch's",
    )
    kv_memory: int | None = _setting(
        None, _size, "memory for KV caches, such as 4GiB; by default a quarter of what is free"
    )
    max_batch_tokens: int | None = _setting(
        None, _number(16, 1 << 20), "tokens in one step; by default 256 on a CPU, 2048 on a GPU"
    )
    max_sequences: int = _setting(64, _number(1, 4096), "sequences that one decoder runs at a time")
    itl_target_ms: int = _setting(
        100, _number(1, 60_000), "what else runs leaves a stream a token so often, if decoding alone can"
    )
    speculation: bool = _setting(
        True, _switch, "do not guess ahead by looking up the text so far; the text is the same either way"
    )
    max_requests: int = _setting(
        512, _number(1, 1 << 20), "requests present at a time; more are answered 429"
    )
    cache: Path = field(
        default_factory=_default_cache,
        metadata={"parse": Path, "help": "where downloaded models are kept"},
    )
    offline: bool = _setting(False, _switch, "download nothing")


def add_flags(parser: argparse.ArgumentParser, names: tuple[str, ...] = ()) -> None:
    """A flag for every setting, or for those named."""
    parser.add_argument("--config", metavar="FILE", help="a TOML file with a line for each setting")
    for one in fields(Settings):
        if names and one.name not in names:
            continue
        flag = "--" + one.name.replace("_", "-")
        extra: dict[str, Any] = {"metavar": one.name.upper(), "help": one.metadata["help"]}
        if "metavar" in one.metadata:
            extra |= {"action": "append", "metavar": one.metadata["metavar"]}
        elif one.metadata["parse"] is _switch:
            if one.default is True:
                flag = "--no-" + flag.removeprefix("--")
            const = "false" if one.default is True else "true"
            extra = {"action": "store_const", "const": const, "help": extra["help"]}
        parser.add_argument(flag, dest=one.name, **extra)


def read(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from parsed flags, the environment and the file that --config (or its variable) names.

    Raises BadSetting.
    """
    path = flags.get("config") or environment.get(PREFIX + "CONFIG")
    table = _read_file(Path(path)) if path else {}
    values = dict[str, Any]()
    for one in fields(Settings):
        variable = PREFIX + one.name.upper()
        if flags.get(one.name) is not None:
            origin, raw = "--" + one.name.replace("_", "-"), flags[one.name]
        elif environment.get(variable):
            origin, raw = variable, environment[variable]
        elif one.name in table:
            origin, raw = f"{one.name} in {path}", table[one.name]
        else:
            continue
        values[one.name] = _parse(one.metadata["parse"], raw, origin)
    return Settings(**values)


def _read_file(path: Path) -> dict[str, Any]:
    import tomllib  # seldom needed, and 5 ms

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadSetting(f"{path} cannot be read: {error}") from error
    unknown = table.keys() - {one.name for one in fields(Settings)}
    if unknown:
        raise BadSetting(f"{path} has unknown settings: {', '.join(sorted(unknown))}")
    return table


def _parse(parse: Callable[[str], Any] | None, raw: Any, origin: str) -> Any:
    """`parse` is None where there may be several."""
    if parse is None:
        several = raw.split() if isinstance(raw, str) else raw
        if not isinstance(several, list) or not all(isinstance(one, str) and one for one in several):
            raise BadSetting(f"{origin} must be words, as a list or separated by spaces; it is {raw!r}")
        return tuple(several)
    text = str(raw).lower() if isinstance(raw, bool) else str(raw)
    try:
        return parse(text)
    except ValueError as error:
        raise BadSetting(f"{origin} must be {error}; it is {text!r}") from None
