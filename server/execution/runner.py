"""Runs a planned step on the device: every model of it has a runner of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from server.scheduling.plan import Results, Step


class ModelRunner(Protocol):
    """Runs the steps of one model."""

    def run(self, step: Step) -> Results: ...


class Runner:
    """Every model of this device, by name."""

    def __init__(self, models: Mapping[str, ModelRunner]) -> None:
        self._models = models

    def run(self, step: Step) -> Results:
        with torch.inference_mode():
            return self._models[step.model].run(step)
