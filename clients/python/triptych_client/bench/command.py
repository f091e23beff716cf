"""The command line of the load generator: flags to a `Plan`, a `Measurement` to a table or JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from triptych_client._errors import TriptychError
from triptych_client._transport import DEFAULT_URL
from triptych_client.bench.dialects import openai_completions, tgi
from triptych_client.bench.load import FILL_MASK_TEXT, Plan, measure
from triptych_client.bench.report import summarize, table

DIALECTS = {"tgi": tgi, "openai": openai_completions}


def main(arguments: Sequence[str] | None = None, program: str = "python -m triptych_client.bench") -> int:
    """0 where every request succeeded, 1 where any failed, 2 for a mistaken command line, 130 for Ctrl-C."""
    parser = _parser(program)
    flags = parser.parse_args(arguments)
    try:
        report = summarize(asyncio.run(measure(_plan(flags))))
    except ValueError as error:
        parser.error(str(error))
    except TriptychError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(asdict(report), indent=2) if flags.json else table(report))
    return 1 if report.failed or report.fill_mask_failed or not report.ok else 0


def _plan(flags: argparse.Namespace) -> Plan:
    return Plan(
        url=flags.url,
        dialect=DIALECTS[flags.dialect](flags.model),
        streams=flags.streams,
        requests=flags.streams if flags.requests is None else flags.requests,
        rate=flags.rate,
        tokens=flags.tokens,
        prompt=flags.prompt,
        prompt_words=flags.prompt_words,
        rivals=flags.rivals,
        api_key=flags.api_key,
        fill_mask_every_ms=flags.fill_mask_every_ms,
        fill_mask_text=flags.fill_mask_text,
        warmup=flags.warmup,
        timeout_s=flags.timeout,
        seed=flags.seed,
    )


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Measures a text-inference server over HTTP: throughput, latency, overlap of streams.",
    )
    _add_load(parser)
    _add_request(parser)
    parser.add_argument("--json", action="store_true", help="the report as JSON, durations in seconds")
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("load")
    load.add_argument("--streams", type=_positive_int, default=16, help="streams at a time (16)")
    load.add_argument("--requests", type=_positive_int, help="streams in all (as many as --streams)")
    load.add_argument(
        "--rate", type=_positive, help="open loop: so many streams a second arrive, whatever has ended"
    )
    load.add_argument(
        "--rivals", type=_whole, default=0, help="streams of another API key beside, always so many (0)"
    )
    load.add_argument("--fill-mask-every-ms", type=_positive, help="a fill-mask request beside, this often")
    load.add_argument("--fill-mask-text", default=FILL_MASK_TEXT, help="what it asks (%(default)s)")
    load.add_argument("--warmup", type=_whole, default=1, help="streams beforehand, uncounted (1)")
    load.add_argument("--seed", type=int, default=0, help="of prompts and arrivals (0)")


def _add_request(parser: argparse.ArgumentParser) -> None:
    request = parser.add_argument_group("request")
    request.add_argument("--url", default=DEFAULT_URL, help="(%(default)s)")
    request.add_argument(
        "--dialect", choices=DIALECTS, default="tgi", help="/generate_stream or /v1/completions"
    )
    request.add_argument("--api-key", help="whose requests these are")
    request.add_argument("--model", help="by name, where the server has several or asks for it")
    request.add_argument("--tokens", type=_positive_int, default=128, help="generated in each stream (128)")
    request.add_argument("--prompt", help="the same for all (a different one for each)")
    request.add_argument("--prompt-words", type=_positive_int, default=32, help="length of each (32)")
    request.add_argument("--timeout", type=_positive, default=120.0, help="longest silence, in seconds (120)")


def _positive_int(text: str) -> int:
    return _at_least(int(text), 1)


def _whole(text: str) -> int:
    return _at_least(int(text), 0)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _at_least(value: int, least: int) -> int:
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is less than {least}")
    return value
