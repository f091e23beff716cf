"""Runs one command, and says what went wrong: each kind of failure is one line and an exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from server.shell.terminal import complain

if TYPE_CHECKING:
    from triptych_client import Client

    Talk = Callable[[Client, argparse.Namespace], None]


class Differs(Exception):
    """A receipt's text came out otherwise, or could not be vouched for."""


def run(name: str, talk: Talk, args: argparse.Namespace) -> int:
    """Have `talk` talk to the server at `args.url`, as `triptych NAME`. Returns the exit status.

    0; 1 where the server failed, refused or is not there; 2 for a mistaken call or a missing client; 130
    after Ctrl-C; 141 where nobody reads the output any more.
    """
    try:
        from triptych_client import Client, TriptychError
    except ModuleNotFoundError as missing:
        return client_missing(name, missing)
    try:
        with Client(args.url, timeout=args.timeout) as client:
            talk(client, args)
    except ValueError as error:
        return complain(name, error, status=2)
    except (TriptychError, Differs) as error:
        return complain(name, error, status=1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _stop_printing()
    except OSError as error:  # a file that is not there
        return complain(name, error, status=2)
    return 0


def client_missing(name: str, missing: ModuleNotFoundError) -> int:
    """Says what to type; returns the exit status. Raises `missing` where it is another module."""
    if missing.name not in ("triptych_client", "httpx"):
        raise missing
    print(f"triptych {name} needs the client; type: pip install -e clients/python", file=sys.stderr)
    return 2


def _stop_printing() -> int:
    """Whoever read our output, `head` for one, has seen enough. Python would complain again at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
