"""From settings to what the engine process is told: models brought to this machine, adapters found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.weights.sources import DEFAULTS, find_default, resolve
from server.engine.messages import LoraSetup, ModelSetup, Setup
from server.settings import BadSetting, Settings

ADAPTER = Path(__file__).parent.parent / "models" / "defaults" / "minilm_mlm"


def bring(settings: Settings) -> Setup:
    """Resolve every source to a path, downloading what is not there yet.

    Raises BadSetting for names that clash or say nothing, and ModelError for what cannot be brought.
    """
    models = bring_models(settings)
    return Setup(
        models=models,
        device=settings.device,
        dtype=settings.dtype,
        kv_memory=settings.kv_memory,
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
        itl_target_s=settings.itl_target_ms / 1000,
        speculation=settings.speculation,
        threads=settings.threads,
        kernels=settings.kernels,
        quantize=settings.quantize,
        cache=str(settings.cache),
    )


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
