"""`triptych serve`: takes the port, starts the engine process, and only then imports what this one needs.

The engine process has PyTorch to import and weights to read, which takes longer than all that this one does
before it can answer. So it goes first, and this module imports next to nothing.
"""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from server.settings import BadSetting, Settings

GRACE_S = 5.0  # for the engine process to end by itself


def serve(settings: Settings) -> int:
    """Serve until told to stop. Raises ModelError or BadSetting for what cannot be brought or listened on."""
    with _bind(settings.host, settings.port) as listener, engine_process() as link:
        gc.disable()  # importing makes many objects, and hardly any garbage; `build` enables it
        from server import build  # fastapi, uvicorn and tokenizers: half a second

        return build.serve(settings, listener, link)


@contextmanager
def engine_process() -> Iterator[socket.socket]:
    """Our end of its socketpair: it waits there for a `Setup`, and ends when the block does.

    It gets a session of its own: Ctrl-C is for this process, which then closes the link, which ends it.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "server.start_engine", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    try:
        yield ours
    except BaseException:
        process.terminate()  # nobody waits for what it is loading
        raise
    finally:
        ours.close()
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its link is closed, so it ends after the step that it is in."""
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _bind(host: str, port: int) -> socket.socket:
    """Bound before anything is fetched, so that a port in use costs no wait; connections are refused until
    the server listens. Raises BadSetting.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> BadSetting:
    return BadSetting(f"--host {host} --port {port}: cannot listen there: {error.strerror}")
