"""The commands that talk to a running server: what may be typed, and what each of them does.

They need the client, a distribution of its own, and import it only when one of them runs. Those that measure
a model in this process are registered here, too: `measuring`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from server.shell import flags
from server.shell.conversation import Conversation, converse
from server.shell.measuring import offline, profile
from server.shell.running import Differs, client_missing, run
from server.shell.terminal import printable, show, text_of

if TYPE_CHECKING:
    from server.shell.running import Talk
    from triptych_client import Client, Generation, MaskCandidate, Stream

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_URL = "http://127.0.0.1:8000"
_OFFLINE = (
    f"{offline.OFFLINE}: a model in this process instead; {offline.OFFLINE} --help lists the flags for that"
)


def add_commands(subparsers: Subparsers) -> None:
    """Adds all of them. Each sets `run`: from the parsed arguments to the exit status of `running.run`."""
    _add_generate(subparsers)
    _add_chat(subparsers)
    _add_fill_mask(subparsers)
    _add_summarize(subparsers)
    _add_translate(subparsers)
    _add_verify(subparsers)
    _add_bench(subparsers)
    profile.add_command(subparsers)


# What may be typed.


def _add_generate(subparsers: Subparsers) -> None:
    parser = _add_command(subparsers, "generate", "continue a text", _generate)
    parser.add_argument("prompt", help="the text to continue; - reads it from standard input")
    parser.add_argument("--n", type=int, help="write so many texts, and print the most probable first")
    parser.add_argument("--receipt", metavar="FILE", help="write there what the text was made of: see verify")
    flags.add_flags(parser, max_new_tokens=128)
    parser.add_argument(
        "--json", action="store_true", help="everything that is known about it, as one object"
    )


def _add_chat(subparsers: Subparsers) -> None:
    parser = _add_command(subparsers, "chat", "ask a question, or talk", _chat)
    parser.add_argument("question", nargs="?", help="absent: a conversation; - reads it from standard input")
    parser.add_argument("--system", help="the message that sets the model's role")
    flags.add_flags(parser, max_new_tokens=512)
    parser.add_argument("--json", action="store_true", help="one question: the answer as one object")


def _add_fill_mask(subparsers: Subparsers) -> None:
    parser = _add_command(subparsers, "fill-mask", "say what a masked word may be", _fill_mask)
    parser.add_argument("text", help='such as "Paris is the [MASK] of France."; - reads standard input')
    parser.add_argument("--top-k", type=int, default=5, help="candidates for each mask (5)")
    parser.add_argument(
        "--target", action="append", help="consider only this word; may be given several times"
    )
    parser.add_argument("--model", help="which of the loaded models")
    parser.add_argument("--json", action="store_true", help="a list of candidates for each mask")


def _add_summarize(subparsers: Subparsers) -> None:
    parser = _add_command(subparsers, "summarize", "say briefly what a text says", _summarize)
    _add_rewriting(parser)


def _add_translate(subparsers: Subparsers) -> None:
    parser = _add_command(subparsers, "translate", "say a text in another language", _translate)
    parser.add_argument(
        "--from", dest="src_lang", metavar="LANGUAGE", help="of the text, as the model calls it: en, en_XX"
    )
    parser.add_argument("--to", dest="tgt_lang", metavar="LANGUAGE", help="to translate into: de, de_DE")
    _add_rewriting(parser)


def _add_rewriting(parser: argparse.ArgumentParser) -> None:
    """What both take: a text, and how its answer is written."""
    parser.add_argument("text", nargs="?", default="-", help="the text; absent or -: standard input")
    parser.add_argument("--truncate", action="store_true", help="cut a text that is too long at its end")
    parser.add_argument(
        "--clean-up-spaces", action="store_true", help="take back spaces before punctuation in the answer"
    )
    flags.add_text_flags(parser, max_new_tokens=None)
    parser.add_argument("--json", action="store_true", help="the answer as one object")


def _add_verify(subparsers: Subparsers) -> None:
    parser = _add_command(subparsers, "verify", "make a text again from its receipt, and compare", _verify)
    parser.add_argument("receipt", metavar="FILE", help="the receipt; - reads it from standard input")
    parser.add_argument("--model", help="what the receipt's model is called here")
    parser.add_argument(
        "--force", action="store_true", help="make it again even by other weights or another kind of machine"
    )


def _add_bench(subparsers: Subparsers) -> None:
    # The flags are the load generator's own. With a prefix that nobody types, argparse leaves all to it.
    parser = subparsers.add_parser(
        "bench",
        help=f"measure a server under load, or a model by itself ({offline.OFFLINE}); --help lists its flags",
        add_help=False,
        prefix_chars="\0",
    )
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(run=_bench)


def _add_command(subparsers: Subparsers, name: str, summary: str, talk: Talk) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=summary, description=f"{summary}, by a running server")
    parser.add_argument("--url", default=DEFAULT_URL, help="where the server is (%(default)s)")
    parser.add_argument("--timeout", type=float, default=120.0, help="longest silence, in seconds (120)")
    parser.set_defaults(run=lambda args: run(name, talk, args))
    return parser


# What is done.


def _bench(args: argparse.Namespace) -> int:
    if offline.OFFLINE in args.arguments:
        return offline.main(args.arguments, program="triptych bench")
    try:
        from triptych_client.bench.command import main
    except ModuleNotFoundError as missing:
        return client_missing("bench", missing)
    return main(args.arguments, program="triptych bench", epilog=_OFFLINE)


def _generate(client: Client, args: argparse.Namespace) -> None:
    prompt, wishes = text_of(args.prompt), flags.options(args)
    wishes["n"], wishes["receipt"] = args.n, bool(args.receipt) or None
    result: Generation | None
    if args.json or args.n:
        result = client.generate(prompt, **wishes)
        _print_texts(result, as_json=args.json)
    else:
        result = _print_stream(client.stream(prompt, **wishes))
    if args.receipt and result is not None:
        Path(args.receipt).write_text(json.dumps(result.receipt), encoding="utf-8")


def _print_stream(stream: Stream) -> Generation | None:
    """Prints the pieces as they come; the whole, with what is known only then."""
    result = None
    with stream:
        for piece in stream:
            show(piece.text)
            result = piece.result
    print()
    return result


def _print_texts(best: Generation, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(best), indent=2))
        return
    for number, text in enumerate((best, *best.others), start=1):
        if best.others:
            print(f"text {number}")
        print(printable(text.text))


def _verify(client: Client, args: argparse.Namespace) -> None:
    """Anything but the very same text is a failure, for scripts to see."""
    text = sys.stdin.read() if args.receipt == "-" else Path(args.receipt).read_text(encoding="utf-8")
    receipt = json.loads(text)
    if not isinstance(receipt, dict):
        raise ValueError(f"{args.receipt} holds no receipt: a receipt is a JSON object")
    verdict = client.verify(receipt, model=args.model, force=args.force)
    print(json.dumps(asdict(verdict)))
    if verdict.verdict != "identical":
        raise Differs(f"the text is not the same: {verdict.verdict}")


def _fill_mask(client: Client, args: argparse.Namespace) -> None:
    masks = client.fill_mask(text_of(args.text), top_k=args.top_k, targets=args.target, model=args.model)
    if args.json:
        print(json.dumps([[asdict(candidate) for candidate in mask] for mask in masks], indent=2))
        return
    for number, candidates in enumerate(masks, start=1):
        if len(masks) > 1:
            print(f"mask {number}")
        _print_candidates(candidates)


def _print_candidates(candidates: list[MaskCandidate]) -> None:
    width = max((len(candidate.token_str) for candidate in candidates), default=0)
    for candidate in candidates:
        print(printable(f"{candidate.score:8.4f}  {candidate.token_str:<{width}}  {candidate.sequence}"))


def _summarize(client: Client, args: argparse.Namespace) -> None:
    [summary] = client.summarize(
        text_of(args.text),
        truncate=args.truncate,
        clean_up_spaces=args.clean_up_spaces,
        **flags.text_options(args),
    )
    _print_text(summary, as_json=args.json)


def _translate(client: Client, args: argparse.Namespace) -> None:
    [translation] = client.translate(
        text_of(args.text),
        src_lang=args.src_lang,
        tgt_lang=args.tgt_lang,
        truncate=args.truncate,
        clean_up_spaces=args.clean_up_spaces,
        **flags.text_options(args),
    )
    _print_text(translation, as_json=args.json)


def _print_text(text: str, *, as_json: bool) -> None:
    print(json.dumps({"text": text}, indent=2) if as_json else printable(text))


def _chat(client: Client, args: argparse.Namespace) -> None:
    conversation = Conversation(client, flags.options(args), system=args.system)
    if args.question is None:
        converse(conversation)
    elif args.json:
        messages = conversation.with_question(text_of(args.question))
        print(json.dumps(asdict(client.chat(messages, **flags.options(args))), indent=2))
    else:
        conversation.ask(text_of(args.question))
        print()
