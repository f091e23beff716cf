"""The HTTP process: brings the weights, starts the engine process, joins text, engine and HTTP.

Together with `worker`, which does the same for the engine process, the only file that knows everyone.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.weights.sources import DEFAULTS, find_default, resolve
from server.engine.messages import LoraSetup, ModelSetup, Setup, frame
from server.errors import NotReady
from server.settings import BadSetting, Settings

if TYPE_CHECKING:
    import uvicorn

    from server.engine.engine import Engine

GRACE_S = 5.0  # for the engine process to end by itself
DRAIN_S = 30  # for open streams to end after SIGTERM; then they are told
ADAPTER = Path(__file__).parent.parent / "models" / "defaults" / "minilm_mlm"


def serve(settings: Settings) -> int:
    """Serve until told to stop. Raises ModelError or BadSetting for what cannot be brought or listened on."""
    with _bind(settings.host, settings.port) as listener:
        models = bring_models(settings)
        link, worker = start_worker(settings, models)
        try:
            return asyncio.run(_serve(settings, models, link, listener))
        finally:
            link.close()
            _end(worker)


def bring_models(settings: Settings) -> list[ModelSetup]:
    """Resolve every source to a path, downloading what is not there yet."""
    wanted = [_split(model) for model in settings.model or DEFAULTS]
    names = [name for name, _ in wanted]
    if len(set(names)) < len(names):
        twice = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        raise BadSetting(f"--model: {twice} is there more than once; name them apart with NAME=SOURCE")
    loras = bring_loras(settings, names)
    return [
        ModelSetup(
            name=name,
            source=source,
            loras=tuple(loras.get(name, ())),
            path=str(resolve(source, cache=settings.cache, offline=settings.offline)),
            adapter=str(ADAPTER) if find_default(source) is DEFAULTS["all-minilm-l6-v2"] else None,
        )
        for name, source in wanted
    ]


def bring_loras(settings: Settings, models: Sequence[str]) -> dict[str, list[LoraSetup]]:
    """The adapters of each model. Raises BadSetting where one cannot be told, or a name is there twice."""
    if settings.lora_folder is not None and not settings.lora_folder.is_dir():
        raise BadSetting(f"--lora-folder {settings.lora_folder}: there is no such folder")
    found, taken = dict[str, list[LoraSetup]](), set(models)
    for lora in settings.lora:
        name, model, folder = _split_lora(lora, models)
        if name in taken:
            raise BadSetting(f"--lora {lora}: {name} is taken; every model and adapter needs its own name")
        taken.add(name)
        found.setdefault(model, []).append(LoraSetup(name, str(folder)))
    return found


def start_worker(
    settings: Settings, models: list[ModelSetup]
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the engine process and tell it what to load.

    It gets a session of its own: Ctrl-C is for this process, which then closes the link, which ends it.
    """
    ours, theirs = socket.socketpair()
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "server.worker", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()
    setup = Setup(
        models=models,
        device=settings.device,
        dtype=settings.dtype,
        kv_memory=settings.kv_memory,
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
        itl_target_s=settings.itl_target_ms / 1000,
        speculation=settings.speculation,
    )
    ours.sendall(frame(setup))
    return ours, worker


def _bind(host: str, port: int) -> socket.socket:
    """Bound before anything is fetched, so that a port in use costs no wait; connections are refused until
    the server listens. Raises BadSetting.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener
    except OSError as error:
        raise BadSetting(f"--host {host} --port {port}: cannot listen there: {error.strerror}") from error


async def _serve(
    settings: Settings, models: list[ModelSetup], link: socket.socket, listener: socket.socket
) -> int:
    # Imported here: the engine process is starting meanwhile, and it is the slower one.
    import uvicorn

    from server.api.app import create_app
    from server.api.limits import MAX_INPUTS, Limits
    from server.engine.engine import Engine
    from server.engine.link import Link
    from server.engine.stats import Stats
    from server.text.generation_defaults import read_generation_defaults
    from server.text.tokenizer import load_tokenizer

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


def _split(model: str) -> tuple[str, str]:
    """NAME=SOURCE; or a source by itself, named as people know it: a file, a folder, a hub id, a default."""
    name, equals, source = model.partition("=")
    if equals and name and "/" not in name:
        if not source:
            raise BadSetting(f"--model {model}: nothing stands behind the =")
        return name, source
    if default := find_default(model):
        return default.name, model
    path = Path(model).expanduser()
    if path.exists():
        return path.stem if path.is_file() else path.resolve().name, model
    return model, model


def _split_lora(lora: str, models: Sequence[str]) -> tuple[str, str, Path]:
    """NAME=FOLDER[@MODEL], where the folder's own name may have an @."""
    name, _, rest = lora.partition("=")
    if not name or not rest:
        raise BadSetting(f"--lora {lora}: NAME=FOLDER or NAME=FOLDER@MODEL is needed")
    folder, at, model = rest.rpartition("@")
    if not at or (model not in models and Path(rest).expanduser().is_dir()):
        folder, model = rest, models[0] if len(models) == 1 else ""
    if model not in models:
        raise BadSetting(f"--lora {lora}: @MODEL must say for which model: {', '.join(models)}")
    return name, model, Path(folder).expanduser()


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Its link is closed, so it ends after the step that it is in."""
    try:
        worker.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
