"""`triptych profile`: where the time of a step goes, by operation, beside what the machine can do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from server.settings import BadSetting, read
from server.shell.measuring import arguments

if TYPE_CHECKING:
    from models.native.limits import Limits
    from models.native.profile import Kin, Total
    from server.shell.measuring.bringing import Brought
    from server.shell.measuring.cases import Observed

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_BETWEEN = "between operations"


def add_command(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "profile",
        help="where the time of a step goes, operation by operation",
        description="Loads a model as `triptych serve` would, runs steps of it, and prints what each kind of "
        "operation took, moved and computed, beside what this machine can do at best, which it measures.",
    )
    arguments.add_model(parser)
    parser.add_argument(
        "--batches",
        type=arguments.several,
        metavar="N,N…",
        help="streams, or texts of an encoder, in a step (1,8,32; of an encoder 1,32)",
    )
    parser.add_argument(
        "--contexts", type=arguments.several, metavar="N,N…", help="tokens that a stream sees (128)"
    )
    parser.add_argument(
        "--prompts", type=arguments.several, metavar="N,N…", help="tokens of prompts that are read (512)"
    )
    parser.add_argument(
        "--lengths", type=arguments.several, metavar="N,N…", help="tokens of an encoder's texts (32,128)"
    )
    parser.add_argument(
        "--seconds", type=arguments.seconds, default=1.0, help="how long each case runs, at least (1)"
    )
    arguments.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a table for each case; the exit status. Raises BadSetting and ModelError."""
    from models.native.limits import measure_arithmetic
    from server.execution.device import DeviceError
    from server.shell.measuring.bringing import bring
    from server.shell.measuring.cases import Observer, Wishes, plan
    from server.shell.progress import Progress, show_log

    show_log()
    wishes = Wishes(batches=args.batches, contexts=args.contexts, prompts=args.prompts, lengths=args.lengths)
    try:
        brought = bring(read(vars(args)), args.source)
        library = _kernels(brought)
        runner, cases = plan(brought, wishes)
    except DeviceError as error:
        raise BadSetting(str(error)) from error
    arithmetic = measure_arithmetic(library)
    print(_heading(brought, arithmetic))
    observer, progress, observed = Observer(library, arithmetic, at_least_s=args.seconds), Progress(), []
    for case in cases:
        progress(case.name)
        observed.append(observer.observe(runner, case))
        progress.clear()
        print("", *table(observed[-1]), sep="\n")
    if args.json is not None:
        args.json.write_text(json.dumps(as_json(brought, arithmetic, observed), indent=2) + "\n")
    return 0


def _kernels(brought: Brought) -> Any:
    """Those whose operations are timed. Raises BadSetting where PyTorch computes."""
    if brought.computing.kernels is None:
        raise BadSetting(
            "profile times the operations of our own kernels, and here PyTorch computes: "
            "it needs --kernels auto, avx512, avx2 or plain, a CPU, and --dtype float32 or bfloat16"
        )
    return brought.computing.kernels


def _heading(brought: Brought, arithmetic: Mapping[Any, float]) -> str:
    rates = ", ".join(f"{rate / 1e9:.0f} in {format_.name.lower()}" for format_, rate in arithmetic.items())
    return f"{brought.title}\nlimit of arithmetic, G a second: {rates}"


def table(observed: Observed) -> Iterator[str]:
    """For a terminal, line by line: the case, its operations, what is between them."""
    from models.native.profile import of_limit

    milliseconds, limits = 1e3 * observed.seconds, observed.limits
    steps = f" in {len(observed.case.steps)} steps" if len(observed.case.steps) > 1 else ""
    yield f"{observed.case.name}: {milliseconds:.3f} ms{steps}; {_reading(observed)}"
    rows = [
        _row(kin, total, observed.seconds, of_limit(kin, total, limits))
        for kin, total in observed.operations.items()
    ]
    rows.append((_BETWEEN, "", "", *_time(observed.between_s, observed.seconds), "", "", ""))
    headings = ("operation", "of", "calls", "ms", "share", "GB/s", "G/s", "of limit")
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = [*map(str.ljust, row[:2], widths[:2]), *map(str.rjust, row[2:], widths[2:])]
        yield "  ".join(cells).rstrip()


def _reading(observed: Observed) -> str:
    limits = observed.limits
    memory, reread = (f"{rate / 1e9:.1f} GB/s" for rate in (limits.memory_per_s, limits.reread_per_s))
    given = f"memory gives {memory}, and {reread} of what is read again and again"
    if not observed.case.alone:
        return given
    rate = f"{observed.nbytes / 1e6:.1f} MB at {observed.bytes_per_s / 1e9:.1f} GB/s"
    return f"{rate}, {observed.bytes_per_s / limits.memory_per_s:.1%} of the bandwidth limit; {given}"


def _row(kin: Kin, total: Total, whole_s: float, share: float | None) -> tuple[str, ...]:
    def rate(amount: float) -> str:
        return f"{amount / total.seconds / 1e9:.1f}" if amount and total.seconds else ""

    return (
        kin.name,
        kin.operand,
        str(total.calls),
        *_time(total.seconds, whole_s),
        rate(total.nbytes),
        rate(total.arithmetic),
        "" if share is None else f"{share:.1%}",
    )


def _time(seconds: float, whole_s: float) -> tuple[str, str]:
    return f"{1e3 * seconds:.3f}", f"{seconds / whole_s:.1%}"


def as_json(brought: Brought, arithmetic: Mapping[Any, float], observed: list[Observed]) -> dict[str, Any]:
    """Everything in seconds, bytes, multiplications and additions."""
    rates = {format_.name.lower(): rate for format_, rate in arithmetic.items()}
    return {**brought.about, "arithmetic_per_s": rates, "cases": [_case(one) for one in observed]}


def _case(observed: Observed) -> dict[str, Any]:
    return {
        "name": observed.case.name,
        "steps": len(observed.case.steps),
        "seconds": observed.seconds,
        "between_operations": observed.between_s,
        "bytes": observed.nbytes,
        "bytes_per_s": observed.bytes_per_s,
        "memory_bytes_per_s": observed.limits.memory_per_s,
        "reread_bytes_per_s": observed.limits.reread_per_s,
        "operations": [_operation(kin, total, observed.limits) for kin, total in observed.operations.items()],
    }


def _operation(kin: Kin, total: Total, limits: Limits) -> dict[str, Any]:
    from models.native.profile import of_limit

    return {
        "name": kin.name,
        "of": kin.operand,
        "calls": total.calls,
        "seconds": total.seconds,
        "bytes": total.nbytes,
        "arithmetic": total.arithmetic,
        "of_limit": of_limit(kin, total, limits),
    }
