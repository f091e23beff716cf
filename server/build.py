"""The HTTP process: brings the weights, tells the engine process what to load, joins text, engine and HTTP.

Together with `worker`, which does the same for the engine process, the only file that knows everyone.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from server.api.app import create_app
from server.api.limits import MAX_INPUTS, Limits
from server.engine.engine import Engine
from server.engine.link import Link
from server.engine.messages import ModelSetup, frame
from server.engine.stats import Stats
from server.errors import NotReady
from server.model_setups import bring
from server.settings import Settings
from server.text.generation_defaults import read_generation_defaults
from server.text.tokenizer import load_tokenizer

DRAIN_S = 30  # for open streams to end after SIGTERM; then they are told


def serve(settings: Settings, listener: socket.socket, link: socket.socket) -> int:
    """Listen on a bound socket, with the engine process at the other end of `link`, until told to stop.

    Raises ModelError or BadSetting for what cannot be brought.
    """
    setup = bring(settings)
    link.sendall(frame(setup))
    return asyncio.run(_serve(settings, setup.models, link, listener))


async def _serve(
    settings: Settings, models: Sequence[ModelSetup], link: socket.socket, listener: socket.socket
) -> int:
    connection = Link(Stats())
    await connection.connect(link)
    tokenizers = {model.name: load_tokenizer(Path(model.path)) for model in models}
    limits = Limits(max_inputs=min(MAX_INPUTS, settings.max_requests))  # more would be 429 for ever
    defaults = {model.name: read_generation_defaults(Path(model.path)) for model in models}
    engine = Engine(connection, tokenizers, max_requests=settings.max_requests, defaults=defaults)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(engine, limits=limits, lora_folder=settings.lora_folder),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    gc.freeze()  # what is there by now stays
    gc.enable()
    watching = asyncio.create_task(_watch(engine, server))
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when it has shut down
    host, port = listener.getsockname()[:2]
    print(f"triptych: listening on http://{host}:{port}, loading the models", file=sys.stderr, flush=True)
    await server.serve(sockets=[listener])
    failed = watching.done()
    watching.cancel()
    await engine.close()
    return 1 if failed else 0


async def _watch(engine: Engine, server: uvicorn.Server) -> None:
    """Say when the models are loaded. Where they cannot be, or the engine stops, say why and end it all."""
    try:
        await engine.load()
        _announce(engine)
        reason = await engine.lost()
    except NotReady as error:
        reason = str(error)
    print(f"triptych: {reason}", file=sys.stderr)
    server.should_exit = True


def _announce(engine: Engine) -> None:
    names = ", ".join(f"{card.name} ({card.dtype} on {card.device})" for card in engine.cards)
    print(f"triptych: serving {names}", file=sys.stderr, flush=True)
