"""Joins the routes, the limits and the error tables into one application."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from fastapi import FastAPI

from server.api import (
    adapters,
    embed,
    errors,
    fill_mask,
    generate,
    health,
    inference,
    metrics,
    rewrite,
    tokenize,
    verify,
)
from server.api.edge import Edge, Engine
from server.api.limits import BodyLimit, Limits
from server.api.openai import chat, completions, embeddings, models

HEARTBEAT_S = 15.0  # shorter than the read timeout of any proxy in common use

ROUTERS = (
    generate,
    fill_mask,
    rewrite,
    inference,
    embed,
    tokenize,
    chat,
    completions,
    embeddings,
    models,
    adapters,
    verify,
    health,
    metrics,
)


def create_app(
    engine: Engine,
    *,
    limits: Limits | None = None,
    heartbeat_s: float = HEARTBEAT_S,
    version: str | None = None,
    lora_folder: Path | None = None,
) -> FastAPI:
    """The HTTP face of a running `engine`. Whoever built the engine starts and stops it.

    `heartbeat_s` is how long a stream may be silent; `version` is the installed one unless given.
    `lora_folder` is where adapters may be loaded from while the server runs; None: they may not.
    """
    limits, version = limits or Limits(), version or _installed_version()
    app = FastAPI(
        title="Triptych",
        version=version,
        description="Text inference for decoders, encoders and encoder-decoders in one process.",
        redirect_slashes=False,  # a redirected POST loses its body with some clients; 404 says what is wrong
    )
    app.state.edge = Edge(
        engine=engine, limits=limits, heartbeat_s=heartbeat_s, version=version, lora_folder=lora_folder
    )
    for module in ROUTERS:
        app.include_router(module.router)
    errors.install(app)
    app.add_middleware(BodyLimit, max_body_bytes=limits.max_body_bytes)
    return app


def _installed_version() -> str:
    try:
        return metadata.version("triptych")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"
