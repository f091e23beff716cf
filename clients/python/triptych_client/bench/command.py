"""The command line of the load generator: flags to a `Plan`, a `Measurement` to a table, JSON, a picture."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from triptych_client._errors import TriptychError
from triptych_client.bench.dialects import Dialect
from triptych_client.bench.discovery import find_dialect
from triptych_client.bench.flags import STDOUT, address_of, check_together, parser_of
from triptych_client.bench.load import measure
from triptych_client.bench.plan import FILL_MASK_TEXT, STREAMS, Measurement, Plan
from triptych_client.bench.plot import PlotUnavailable, load_matplotlib, plot
from triptych_client.bench.progress import Bar
from triptych_client.bench.prompts import Prompt, read_prompts, words_for
from triptych_client.bench.report import Report, as_json, check_slo, summarize
from triptych_client.bench.table import table


def main(
    arguments: Sequence[str] | None = None,
    program: str = "python -m triptych_client.bench",
    epilog: str | None = None,
) -> int:
    """0 where every request succeeded, 1 where any failed, 2 for a mistaken command line, 130 for Ctrl-C.

    `epilog`: what `--help` ends with.
    """
    parser = parser_of(program, epilog)
    flags = parser.parse_args(arguments)
    try:
        return _run(flags)
    except (ValueError, OSError, PlotUnavailable) as error:
        parser.error(str(error))
    except TriptychError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(flags: argparse.Namespace) -> int:
    check_together(flags)
    if flags.plot is not None:
        load_matplotlib()  # its absence is told before the load, not after it
    prompts = () if flags.prompts is None else tuple(read_prompts(flags.prompts))
    measured = asyncio.run(_measure(flags, prompts))
    report = summarize(measured, flags.slo)
    _show(report, measured, flags)
    return 0 if report.failure_free else 1


async def _measure(flags: argparse.Namespace, prompts: tuple[Prompt, ...]) -> Measurement:
    url = address_of(flags)
    dialect = await find_dialect(
        url, flags.api, model=flags.model, api_key=flags.api_key, timeout_s=flags.timeout
    )
    plan = _plan(url, dialect, prompts, flags)
    check_slo(plan, flags.slo)
    bar = Bar(sys.stderr)
    try:
        return await measure(plan, watch=bar)
    finally:
        bar.clear()


def _plan(url: str, dialect: Dialect, prompts: tuple[Prompt, ...], flags: argparse.Namespace) -> Plan:
    words = flags.prompt_words if flags.prompt_tokens is None else words_for(flags.prompt_tokens)
    return Plan(
        url=url,
        dialect=dialect,
        streams=flags.streams or STREAMS,
        requests=flags.requests or len(prompts) or flags.streams or STREAMS,
        rate=flags.rate,
        burst=flags.burst,
        tokens=flags.tokens,
        prompt=flags.prompt,
        prompts=prompts,
        prompt_words=words,
        batch=flags.batch,
        rivals=flags.rivals,
        api_key=flags.api_key,
        fill_mask_every_ms=flags.fill_mask_every_ms,
        fill_mask_text=flags.fill_mask_text or FILL_MASK_TEXT,
        warmup=flags.warmup,
        timeout_s=flags.timeout,
        seed=flags.seed,
    )


def _show(report: Report, measured: Measurement, flags: argparse.Namespace) -> None:
    text = json.dumps(as_json(report), indent=2)
    if flags.json == STDOUT:
        print(text)
    else:
        print(table(report))
    if flags.json not in (None, STDOUT):
        Path(flags.json).write_text(f"{text}\n", encoding="utf-8")
    if flags.plot is not None:
        plot(measured, flags.plot)
