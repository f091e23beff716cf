"""The command line: who takes part, how long, where results go."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from server.execution.threads import usable_cores
from tests.benchmarks.peers.contender import Contender
from tests.benchmarks.peers.engines import llama_cpp, onnxruntime, openvino, ours, transformers, vllm
from tests.benchmarks.peers.measurement import QUICK, Effort, Measurement, say
from tests.benchmarks.peers.records import Record, Results, Subject
from tests.benchmarks.peers.serving import write_prompts
from tests.benchmarks.peers.table import render
from tests.benchmarks.peers.workshop import Workshop

PROGRAM = "python -m tests.benchmarks.peers"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where everything that was asked for was measured, 1 where anything failed, 2 for a mistaken command
    line, 130 for Ctrl-C; the table is printed in any case."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.show:
        return _show(parser, flags.show)
    workshop = Workshop(flags.work.expanduser().absolute(), flags.threads)
    chosen = _choose(parser, _contenders(workshop, flags), flags)
    if flags.list:
        print("\n".join(one.key for one in chosen))
        return 0
    path = flags.json or workshop.folder / "results.json"
    results = _results(parser, path, flags)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no peer outlives us
    try:
        _measure(workshop, chosen, results, path, flags)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        print(render(results))
    return 1 if any(record.failures for record in results.records) else 0


def _measure(
    workshop: Workshop, chosen: Sequence[Contender], results: Results, path: Path, flags: argparse.Namespace
) -> None:
    effort = QUICK if flags.quick else Effort()
    effort = effort if flags.limit is None else replace(effort, limit_s=flags.limit)
    measurement = Measurement(
        workshop=workshop,
        effort=effort,
        prompts=write_prompts(workshop.gguf(), requests=effort.requests),
        save=lambda: results.write(path),
    )
    for contender in chosen:
        record = Record(
            subject=contender.subject, key=contender.key, label=contender.label, ours=contender.ours
        )
        results.start(record)
        measurement.measure(contender, record)


def _show(parser: argparse.ArgumentParser, path: Path) -> int:
    try:
        print(render(Results.read(path)))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


def _results(parser: argparse.ArgumentParser, path: Path, flags: argparse.Namespace) -> Results:
    """Empty, or with `--add` what earlier runs left in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not flags.add or not path.exists():
        return Results(machine=_machine(flags), records=[])
    try:
        return Results(machine=_machine(flags), records=Results.read(path).records)
    except ValueError as error:
        parser.error(str(error))


def _contenders(workshop: Workshop, flags: argparse.Namespace) -> list[Contender]:
    """Us first: then what is wrong with us is known soon."""
    found = [
        *ours.decoders(workshop, dict(flags.ours or ours.ROWS.items())),
        *llama_cpp.decoders(workshop),
        *openvino.decoders(workshop),
        *transformers.decoders(workshop),
        *vllm.decoders(workshop, compiled=flags.compile),
    ]
    for subject in (Subject.MINILM, Subject.BERT_BASE):
        found += ours.encoders(workshop, subject, dict(flags.ours_encoders or ours.ENCODER_ROWS.items()))
        for engine in (onnxruntime, openvino, transformers):
            found += engine.encoders(workshop, subject)
    return found


def _choose(
    parser: argparse.ArgumentParser, found: Sequence[Contender], flags: argparse.Namespace
) -> list[Contender]:
    for pattern in (*flags.only, *flags.skip):
        if not any(_matches(one, pattern) for one in found):
            parser.error(f"{pattern} is nobody's name; they are {', '.join(one.key for one in found)}")
    wanted = [one for one in found if not flags.only or any(_matches(one, each) for each in flags.only)]
    return [one for one in wanted if not any(_matches(one, pattern) for pattern in flags.skip)]


def _matches(contender: Contender, pattern: str) -> bool:
    """The whole key, or one of its parts."""
    return any(fnmatch(name, pattern) for name in (contender.key, contender.subject, contender.name))


def _machine(flags: argparse.Namespace) -> dict[str, str]:
    return {
        "processor": _processor(),
        "threads": str(flags.threads),
        "Python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "measured": "quickly, once each" if flags.quick else "the best of two",
    }


def _processor() -> str:
    """As Linux calls it; elsewhere its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Measures us and our peers on this machine, and prints how we compare."
    )
    parser.add_argument(
        "--work", type=Path, default=_default_work(), help="environments and files: %(default)s"
    )
    parser.add_argument("--json", type=Path, help="where results go as they come (results.json in --work)")
    parser.add_argument("--add", action="store_true", help="to the results that this file has already")
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="print the tables of such a file; that is all"
    )
    _add_choice(parser)
    _add_rows(parser)
    return parser


def _add_choice(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_argument_group("who takes part, and for how long")
    several: dict[str, Any] = {"metavar": "NAME", "action": "append", "default": []}
    choice.add_argument("--only", **several, help="such as decoder, 'vllm*', minilm/ours-bf16 (repeatable)")
    choice.add_argument("--skip", **several, help="the same, to leave out (repeatable)")
    choice.add_argument("--list", action="store_true", help="print the names of those chosen; that is all")
    choice.add_argument("--quick", action="store_true", help="once instead of twice, and half of the load")
    choice.add_argument("--limit", type=float, metavar="SECONDS", help="for each job, and to start (600)")
    choice.add_argument("--threads", type=int, default=usable_cores(), help="(%(default)s)")


def _add_rows(parser: argparse.ArgumentParser) -> None:
    rows = parser.add_argument_group("rows")
    ours_: dict[str, Any] = {"metavar": "NAME=FLAGS", "action": "append", "type": _row}
    rows.add_argument("--ours", **ours_, help="a decoder row of ours: flags of `triptych serve` (repeatable)")
    rows.add_argument("--ours-encoders", **ours_, help="the same for encoders (repeatable)")
    rows.add_argument("--compile", action="store_true", help="vLLM compiled as well, which takes minutes")


def _row(text: str) -> tuple[str, str]:
    name, equals, flags = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FLAGS, such as int8='--quantize int8'")
    return name, flags


def _default_work() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triptych-peers"
