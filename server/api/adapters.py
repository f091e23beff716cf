"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, as vLLM speaks them.

Only where the server was started with `--lora-folder`: paths are within that folder, so that nobody can have
a file read that is not meant to be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import ConfigDict, Field
from starlette.responses import PlainTextResponse, Response

from server.api.edge import Edge, EdgeOf
from server.api.fields import ModelName, StrictBody, Word, only
from server.errors import InvalidRequest, NotEnabled

EXAMPLE: dict[str, Any] = {"lora_name": "sql", "lora_path": "text-to-sql"}
ADDED, REMOVED = (f"Success: LoRA adapter '{{}}' {what} successfully." for what in ("added", "removed"))


class LoadBody(StrictBody):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]}, use_attribute_docstrings=True)

    lora_name: ModelName
    """What requests call it, as their `model`."""
    lora_path: Annotated[Word, Field(min_length=1)]
    """A PEFT folder within that of `--lora-folder`."""
    model: ModelName | None = None
    """Which model it is for; needed where several are loaded."""

    load_inplace: Annotated[bool | None, only(False)] = False


class UnloadBody(StrictBody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"lora_name": "sql"}]})

    lora_name: ModelName
    lora_int_id: Annotated[int | None, only()] = None


router = APIRouter(tags=["adapters"], default_response_class=PlainTextResponse)


def _said(text: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"text/plain": {"example": text.format("sql")}}}}


@router.post("/v1/load_lora_adapter", summary="Load a LoRA adapter", responses=_said(ADDED))
async def load(body: LoadBody, edge: EdgeOf) -> Response:
    """From now on `lora_name` means the model with this adapter, wherever a model is named."""
    folder = _within(_enabled(edge), body.lora_path)
    await edge.engine.load_adapter(body.lora_name, str(folder), model=body.model)
    return PlainTextResponse(ADDED.format(body.lora_name))


@router.post("/v1/unload_lora_adapter", summary="Unload a LoRA adapter", responses=_said(REMOVED))
async def unload(body: UnloadBody, edge: EdgeOf) -> Response:
    """New requests do not find it any more; those under way end with it."""
    _enabled(edge)
    edge.engine.unload_adapter(body.lora_name)
    return PlainTextResponse(REMOVED.format(body.lora_name))


def _enabled(edge: Edge) -> Path:
    """The folder that adapters are loaded from. Raises NotEnabled where there is none."""
    if edge.lora_folder is None:
        raise NotEnabled("adapters can be loaded only if the server is started with --lora-folder DIR")
    return edge.lora_folder


def _within(root: Path, path: str) -> Path:
    """Raises InvalidRequest unless `path`, and all that is in it, is in `root`."""
    root, asked = root.resolve(), Path(path)
    if "\0" in path or asked.is_absolute() or ".." in asked.parts:
        raise _outside()
    folder = root / asked
    try:
        within = all(_leads_within(root, one) for one in (folder, *folder.iterdir()))
    except OSError as error:  # there is none, or it cannot be read, or no file system takes such a name
        raise _outside() from error
    if not within:
        raise _outside()
    return folder


def _leads_within(root: Path, path: Path) -> bool:
    """Wherever links may lead."""
    return path.resolve().is_relative_to(root)


def _outside() -> InvalidRequest:
    return InvalidRequest("`lora_path` must be a folder within that of --lora-folder", parameter="lora_path")
