"""The flags of the load generator, each checked before anything is sent."""

from __future__ import annotations

import argparse
from pathlib import Path

from triptych_client._transport import DEFAULT_URL
from triptych_client.bench.dialects import APIS
from triptych_client.bench.discovery import AUTO, FAMILIES
from triptych_client.bench.plan import FILL_MASK_TEXT, STREAMS
from triptych_client.bench.plot import FORMATS
from triptych_client.bench.slo import Slo

STDOUT = "-"


def parser_of(program: str, epilog: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        epilog=epilog,
        description="Measures a text-inference server over HTTP, one that speaks OpenAI's, TGI's or TEI's "
        "API: throughput, latency, goodput.",
    )
    _add_server(parser)
    _add_load(parser)
    _add_company(parser)
    _add_request(parser)
    _add_results(parser)
    return parser


def address_of(flags: argparse.Namespace) -> str:
    """Where the server is, without the `/v1` that OpenAI's clients want. Raises ValueError for two."""
    if flags.address is not None and flags.url is not None:
        raise ValueError("the address is given twice, as URL and as --url")
    address: str = flags.address or flags.url or DEFAULT_URL
    return address.rstrip("/").removesuffix("/v1")


def check_together(flags: argparse.Namespace) -> None:
    """Raises ValueError naming a flag that would do nothing beside, or without, another."""
    if flags.streams is not None and flags.rate is not None:
        raise ValueError("--streams is of a closed loop; with --rate, requests come whatever has ended")
    if flags.fill_mask_text is not None and flags.fill_mask_every_ms is None:
        raise ValueError("--fill-mask-text is asked only with --fill-mask-every-ms")


def _add_server(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("server")
    server.add_argument("address", nargs="?", metavar="URL", help=f"({DEFAULT_URL})")
    server.add_argument("--url", help="the same as a flag")
    server.add_argument(
        "--api",
        "--dialect",
        choices=[AUTO, *FAMILIES, *APIS],
        default=AUTO,
        metavar="API",
        help=f"{', '.join([*FAMILIES, *APIS])} (found by asking)",
    )
    server.add_argument("--model", help="by name, where the server has several or asks for it")
    server.add_argument("--api-key", help="whose requests these are")
    server.add_argument("--timeout", type=_positive, default=120.0, help="longest silence, in seconds (120)")


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("load")
    load.add_argument("--streams", type=_positive_int, help=f"requests at a time ({STREAMS})")
    load.add_argument(
        "--requests", type=_positive_int, help="in all (as many as --prompts has, or as --streams)"
    )
    load.add_argument(
        "--rate", type=_positive, help="open loop: so many requests a second arrive, whatever has ended"
    )
    load.add_argument("--burst", type=_positive_int, default=1, help="of an open loop: so many at once (1)")
    load.add_argument("--warmup", type=_whole, default=1, help="requests beforehand, uncounted (1)")
    load.add_argument("--seed", type=int, default=0, help="of prompts and arrivals (0)")


def _add_company(parser: argparse.ArgumentParser) -> None:
    company = parser.add_argument_group("beside the load")
    company.add_argument(
        "--rivals", type=_whole, default=0, help="streams of another API key, always so many (0)"
    )
    company.add_argument("--fill-mask-every-ms", type=_positive, help="a fill-mask request, this often")
    company.add_argument("--fill-mask-text", type=_text, help=f"what it asks ({FILL_MASK_TEXT})")


def _add_request(parser: argparse.ArgumentParser) -> None:
    request = parser.add_argument_group("request")
    request.add_argument("--tokens", type=_positive_int, default=128, help="generated in each (128)")
    request.add_argument(
        "--batch", type=_positive_int, default=1, help="texts in each, where nothing is generated (1)"
    )
    prompt = request.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", type=_text, help="the same for all (a different one for each)")
    prompt.add_argument("--prompt-words", type=_positive_int, default=32, help="length of each (32)")
    prompt.add_argument("--prompt-tokens", type=_positive_int, help="length of each, approximately")
    prompt.add_argument(
        "--prompts", type=Path, metavar="FILE", help="JSON lines: texts, or objects with prompt and tokens"
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    results = parser.add_argument_group("results")
    results.add_argument("--slo", type=_slo, help="goodput, for ttft=500,itl=100 (tpot, e2e), in ms")
    results.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        type=_report_file,
        metavar="FILE",
        help="the report as JSON, durations in seconds; without FILE, instead of the table",
    )
    results.add_argument(
        "--plot", type=_picture_file, metavar="FILE", help=f"a picture ({', '.join(FORMATS)})"
    )


def _slo(text: str) -> Slo:
    try:
        return Slo.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _report_file(text: str) -> str:
    if text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text} is no file; write the address before --json")
    return text if text == STDOUT else str(_new_file(text))


def _picture_file(text: str) -> Path:
    if Path(text).suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text} must end in one of {', '.join(FORMATS)}")
    return _new_file(text)


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: its folder is missing, or it is one")
    return path


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a text cannot be empty")
    return text


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
