"""Compiles the kernels while the project is installed, where there is a compiler.

Without one, or where it fails, the installation goes on: they are compiled at first use, or PyTorch computes.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelHook(BuildHookInterface):  # type: ignore[misc]  # not typed
    """Into `models/native/built`, where editable installations find them, and from there into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        building = _load_building()
        try:
            library = building.build(building.BUILT, again=True)
        except building.CannotBuild as error:
            self.app.display_warning(f"kernels were not compiled: {error}")
            return
        for other in building.BUILT.glob("*.so"):
            if other != library:
                other.unlink()
        build_data["artifacts"].append("/models/native/built/*.so")
        build_data["pure_python"] = False
        # They know nothing of Python: any version of it, on this kind of machine.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _load_building() -> ModuleType:
    """By its path: what `models` needs is not there yet."""
    path = Path(__file__).parent / "building.py"
    spec = importlib.util.spec_from_file_location("building", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
