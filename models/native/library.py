"""The compiled kernels, loaded into this process, and how many threads they run on."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from models.native.building import BUILT, CannotBuild, build, find_library
from models.native.memory import Arena
from models.native.structures import Operation, Run, Weight

if TYPE_CHECKING:
    from models.native.profile import Profile

logger = logging.getLogger(__name__)


class Library:
    """The functions of one shared library, as Python calls them. The GIL is released meanwhile.

    `name`: of the instruction set that its kernels run on.
    """

    def __init__(self, path: Path) -> None:
        """OSError where it cannot be loaded."""
        self._functions = ctypes.CDLL(str(path))
        self.operand_bytes = self._typed("operand_bytes", c_int64, c_int32, c_int64)
        self.pack = self._typed("pack", None, POINTER(Weight), c_void_p, c_int32, c_int, c_int, c_void_p)
        self.unpack = self._typed("unpack", None, POINTER(Weight), c_void_p, c_int, c_void_p)
        self.program = self._typed("program", c_void_p, POINTER(Operation), c_int)
        self.run = self._typed("run", None, c_void_p, POINTER(Run))
        self.free = self._typed("free", None, c_void_p)
        self.quiesce = self._typed("quiesce", None)
        self.peak = self._typed("peak", c_int64, c_int32, c_int64, c_void_p)
        self.survey = self._typed("survey", None, c_void_p)
        self.profile: Profile | None = None  # where the times of operations are kept, while anybody asks
        self.memory = Arena()  # for matrices
        self.name = ""
        self.threads = 0

    def start(self, kernels: str, threads: int) -> bool:
        """Choose kernels by name, the best there are by an empty one. False: there are none of that name."""
        start = self._typed("start", c_bool, c_char_p, c_int)
        if not start(kernels.encode(), threads):
            return False
        self.name = self._typed("kernels", c_char_p)().decode()
        self.threads = threads
        return True

    def _typed(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        function = getattr(self._functions, f"triptych_{name}")
        function.restype, function.argtypes = result, arguments
        return cast(Callable[..., Any], function)


def open_library(cache: Path, *, kernels: str, threads: int) -> Library:
    """The library that was built at install, or one from `cache`, where it is built at first use.

    `kernels` names an instruction set, "auto" the best that there is. Raises CannotBuild with the reason.
    """
    library = _load(cache / "kernels")
    if not library.start("" if kernels == "auto" else kernels, threads):
        raise CannotBuild(f"this processor has no {kernels}")
    return library


def _load(cached: Path) -> Library:
    """What cannot be loaded from where it was installed, as it was linked elsewhere, is compiled here."""
    installed = find_library(BUILT)
    if installed is not None:
        try:
            return Library(installed)
        except OSError as error:
            logger.warning("the kernels that were installed cannot be loaded: %s", error)
    try:
        return Library(find_library(cached) or build(cached))
    except OSError as error:
        raise CannotBuild(f"the kernels cannot be loaded: {error}") from error
