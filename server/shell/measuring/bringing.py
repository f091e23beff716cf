"""Brings one model to this process, as a server of the same settings would have it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from models.weights.sources import SMOLLM2
from server.engine.messages import ModelSetup
from server.execution.computing import Computing, Loaded
from server.execution.device import free_memory
from server.hosting import KV_SHARE, STEP_TOKENS
from server.model_setups import bring_models
from server.settings import BadSetting, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """`kernels` says by name what computes; `cache_memory`: bytes that keys and values may have;
    `step_tokens`: what a server computes at once."""

    name: str
    weights: Loaded
    computing: Computing
    kernels: str
    cache_memory: int
    step_tokens: int
    itl_target_s: float

    @property
    def about(self) -> dict[str, str | int | None]:
        """What was measured, for programs."""
        return {
            "model": self.name,
            "dtype": self.computing.precision,
            "quantize": self.computing.quantisation(self.weights),
            "kernels": self.kernels,
            "threads": self.computing.threads,
            "device": self.computing.device.type,
        }

    @property
    def title(self) -> str:
        """The same for people, in a line."""
        quantised = self.computing.quantisation(self.weights)
        weights = "" if quantised is None else f", weights {quantised}"
        computing = f"{self.kernels}, {self.computing.threads} threads"
        return f"{self.name}: {self.computing.precision}{weights}, {computing}"


def bring(settings: Settings, source: str | None) -> Brought:
    """The model of `source`, or of the settings, or the default decoder.

    Raises BadSetting where there are several, ModelError and DeviceError.
    """
    if source is not None or not settings.model:
        settings = replace(settings, model=(source or SMOLLM2.name,))
    if len(settings.model) > 1:
        raise BadSetting("--model: one at a time is measured; name it")
    [setup] = bring_models(settings)
    computing, weights = load(settings, setup)
    return Brought(
        name=setup.name,
        weights=weights,
        computing=computing,
        kernels=computing.kernels_of(weights),
        cache_memory=settings.kv_memory or int(free_memory(computing.device) * KV_SHARE),
        step_tokens=settings.max_batch_tokens or STEP_TOKENS[computing.device.type],
        itl_target_s=settings.itl_target_ms / 1000,
    )


def load(settings: Settings, setup: ModelSetup) -> tuple[Computing, Loaded]:
    """Raises ModelError and DeviceError."""
    computing = Computing.of(
        device=settings.device,
        dtype=settings.dtype,
        quantize=settings.quantize,
        kernels=settings.kernels,
        threads=settings.threads,
        cache=settings.cache,
    )
    weights = computing.load(Path(setup.path), None if setup.adapter is None else Path(setup.adapter))
    computing.check_kept({setup.name: weights})
    return computing, weights
