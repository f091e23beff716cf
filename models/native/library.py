"""The compiled kernels, loaded into this process, and how many threads they run on."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from models.native.building import BUILT, CannotBuild, build, find_library
from models.native.errors import KernelError
from models.native.memory import Arena
from models.native.structures import Operation, Run, Weight

if TYPE_CHECKING:
    from models.native.profile import Profile

logger = logging.getLogger(__name__)

# What a processor has that runs the best kernels, in Linux's words.
_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16"}


class Library:
    """The functions of one shared library, as Python calls them. The GIL is released meanwhile.

    KernelError where one fails. The system may have fewer threads for them than are asked for: it computes
    with those.

    `name`: of the instruction set that its kernels run on.
    """

    def __init__(self, path: Path) -> None:
        """OSError where it cannot be loaded."""
        self._functions = ctypes.CDLL(str(path))
        self.path = path
        self._failure = self._typed("failure", c_char_p)
        self.operand_bytes = self._typed("operand_bytes", c_int64, c_int32, c_int64)
        self.pack = self._guarded("pack", POINTER(Weight), c_void_p, c_int32, c_int, c_int, c_void_p)
        self.unpack = self._typed("unpack", None, POINTER(Weight), c_void_p, c_int, c_void_p)
        self.run = self._guarded("run", c_void_p, POINTER(Run))
        self.free = self._guarded("free", c_void_p)
        self.quiesce = self._guarded("quiesce")
        self.peak = self._typed("peak", c_int64, c_int32, c_int64, c_void_p)
        self.survey = self._guarded("survey", c_void_p)
        self._program = self._guarded("program", POINTER(Operation), c_int, c_void_p)
        self.profile: Profile | None = None  # where the times of operations are kept, while anybody asks
        self.memory = Arena()  # for matrices
        self.name = ""
        self.threads = 0

    def start(self, kernels: str, threads: int) -> bool:
        """Choose kernels by name, the best there are by an empty one. False: there are none of that name."""
        if not self._typed("has", c_bool, c_char_p)(kernels.encode()):
            return False
        self._guarded("start", c_char_p, c_int)(kernels.encode(), threads)
        self.name = self._typed("kernels", c_char_p)().decode()
        self.threads = threads
        return True

    def program(self, operations: Any, count: int) -> int:
        """The handle of a program of `count` operations, an array; until `free` is called."""
        handle = c_void_p()
        self._program(operations, count, byref(handle))
        assert handle.value is not None
        return handle.value

    def _guarded(self, name: str, *arguments: Any) -> Callable[..., Any]:
        """A function that says whether it came to its end."""
        function = self._typed(name, c_bool, *arguments)
        function.errcheck = self._check  # type: ignore[attr-defined]
        return function

    def _check(self, ended: bool, function: Any, _: object) -> None:
        if not ended:
            raise KernelError(f"{function.__name__}: {self._failure().decode(errors='replace')}")

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
        raise CannotBuild(f"this processor has no {kernels}, or the compiler had none")
    if kernels == "auto" and library.name != "avx512" and _processor_flags() >= _AVX512:
        logger.warning(
            "the kernels were compiled without avx512, which this processor has, and run with %s: "
            "delete %s, and a newer compiler makes them again",
            library.name,
            library.path,
        )
    return library


def _processor_flags() -> set[str]:
    """As Linux lists them; none elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}


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
