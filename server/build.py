"""The HTTP process: brings the weights, starts the engine process, joins text, engine and HTTP.

Together with `worker`, which does the same for the engine process, the only file that knows everyone.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

from models.weights.sources import DEFAULTS, find_default, resolve
from server.engine.messages import ModelSetup, Setup, frame
from server.settings import BadSetting, Settings

GRACE_S = 5.0  # for the engine process to end by itself
ADAPTER = Path(__file__).parent.parent / "models" / "defaults" / "minilm_mlm"


def serve(settings: Settings) -> int:
    """Serve until told to stop. Raises ModelError or BadSetting for models that cannot be brought here."""
    models = bring_models(settings)
    link, worker = start_worker(settings, models)
    try:
        return asyncio.run(_serve(settings, models, link))
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
    return [
        ModelSetup(
            name=name,
            source=source,
            path=str(resolve(source, cache=settings.cache, offline=settings.offline)),
            adapter=str(ADAPTER) if find_default(source) is DEFAULTS["all-minilm-l6-v2"] else None,
        )
        for name, source in wanted
    ]


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
    )
    ours.sendall(frame(setup))
    return ours, worker


async def _serve(settings: Settings, models: list[ModelSetup], link: socket.socket) -> int:
    # Imported here: the engine process is starting meanwhile, and it is the slower one.
    import uvicorn

    from server.api.app import create_app
    from server.engine.engine import Engine
    from server.engine.link import Link
    from server.engine.stats import Stats
    from server.text.tokenizer import load_tokenizer

    connection = Link(Stats())
    await connection.connect(link)
    tokenizers = {model.name: load_tokenizer(Path(model.path)) for model in models}
    engine = Engine(connection, tokenizers, max_requests=settings.max_requests)
    server = uvicorn.Server(
        uvicorn.Config(create_app(engine), host=settings.host, port=settings.port, log_level="info")
    )
    loading = asyncio.create_task(engine.load())
    loading.add_done_callback(lambda done: setattr(server, "should_exit", done.exception() is not None))
    await server.serve()
    await engine.close()
    if (failure := loading.exception() if loading.done() else None) is not None:
        print(f"triptych: {failure}", file=sys.stderr)
        return 1
    return 0


def _split(model: str) -> tuple[str, str]:
    """NAME=SOURCE; or a source by itself, named as people know it: a file, a folder, a hub id, a default."""
    name, equals, source = model.partition("=")
    if equals and name and "/" not in name:
        return name, source
    if default := find_default(model):
        return default.name, model
    path = Path(model).expanduser()
    if path.exists():
        return path.stem if path.is_file() else path.resolve().name, model
    return model, model


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Its link is closed, so it ends after the step that it is in."""
    try:
        worker.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
