"""What the contenders run on: their environments, and the same weights in the format that each of them reads.

Everything is made when it is first asked for and kept, so that a contender that is left out costs nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from models.weights.sources import resolve
from server.settings import Settings
from tests.benchmarks.peers import environments
from tests.benchmarks.peers.environments import Environment
from tests.benchmarks.peers.processes import Command, Failed, Word, run
from tests.benchmarks.peers.records import Subject
from tests.benchmarks.peers.workers.task import Task

ROOT = Path(__file__).parents[3]  # what `tests` is in
MAKING_LIMIT_S = 900.0
WORKERS = "tests.benchmarks.peers.workers"


@dataclass(frozen=True)
class Workshop:
    """A folder with everything in it. `threads`: that every engine may compute with."""

    folder: Path
    threads: int
    _environments: dict[str, Environment | Failed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in (self.logs, self.files):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def files(self) -> Path:
        return self.folder / "files"

    def environment(self, name: str) -> Environment:
        """Raises Failed, without a second attempt for the next contender of the same environment."""
        if name not in self._environments:
            try:
                self._environments[name] = environments.make(name, self.folder, self.logs)
            except Failed as error:
                self._environments[name] = error
        found = self._environments[name]
        if isinstance(found, Failed):
            raise found
        return found

    def worker(
        self, python: Path, module: str, task: Task, variables: Mapping[str, str] | None = None
    ) -> Command:
        """To run a module of `workers` with some interpreter."""
        return Command(
            words=[python, "-m", f"{WORKERS}.{module}", json.dumps(asdict(task))],
            log=self.logs / f"{module}.log",
            folder=ROOT,
            variables={**self.variables, **(variables or {})},
        )

    @cached_property
    def variables(self) -> dict[str, str]:
        """Variables that hold every engine to the same threads, and off the network."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        return threads | dict.fromkeys(("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"), "1")

    # The decoder.

    def gguf(self, precision: str = "Q4_1") -> Path:
        """As the default model comes, or requantised from that by llama.cpp: BF16, F16, Q8_0."""
        shipped = resolve("smollm2-135m-instruct", cache=Settings().cache)
        if precision == "Q4_1":
            return shipped
        program = self.environment("llama.cpp").program("llama-quantize")
        path = self.files / f"smollm2-135m-instruct.{precision}.gguf"

        def requantise(unfinished: Path) -> Command:
            words: list[Word] = [program, "--allow-requantize", shipped, unfinished, precision]
            return Command(words=words, log=self.logs / "llama-quantize.log", folder=self.folder)

        return self._made(path, requantise)

    def decoder_folder(self) -> Path:
        """In Hugging Face layout, bfloat16, without an end of text."""
        task = Task(model=str(self.gguf()), output="")
        return self._written("smollm2-135m-instruct", "make_decoder_folder", task, "transformers")

    # Encoders.

    def encoder_folder(self, subject: Subject) -> Path:
        """In Hugging Face layout, float32."""
        minilm = resolve("all-minilm-l6-v2", cache=Settings().cache)
        if subject is Subject.MINILM:
            return minilm
        folder = self._written("bert-base", "make_bert", Task(model="", output=""), "transformers")
        shutil.copy(minilm / "vocab.txt", folder)  # the same 30,522 words; without, it is no model of ours
        return folder

    def onnx(self, subject: Subject, *, int8: bool = False) -> Path:
        """The encoder with what is asked of it on top; with int8 weights on demand."""
        if int8:
            task = Task(model=str(self.onnx(subject)), output="")
            return self._written(f"{subject}.int8.onnx", "make_onnx_int8", task, "onnxruntime")
        task = Task(
            model=str(self.encoder_folder(subject)), output="", full_logits=subject is Subject.BERT_BASE
        )
        return self._written(f"{subject}.onnx", "make_onnx", task, "transformers")

    def _written(self, name: str, module: str, task: Task, environment: str) -> Path:
        """By a worker in one of the environments."""
        python = self.environment(environment).python

        def write(unfinished: Path) -> Command:
            return self.worker(python, module, Task(**{**asdict(task), "output": str(unfinished)}))

        return self._made(self.files / name, write)

    def _made(self, path: Path, making: Callable[[Path], Command]) -> Path:
        """`path`, whole: what `making` writes gets its name when it is. Raises Failed."""
        if path.exists():
            return path
        unfinished = path.with_name(f"unfinished-{path.name}")
        _remove(unfinished)
        try:
            run(making(unfinished), limit_s=MAKING_LIMIT_S)
        except Failed as error:
            raise Failed(f"{path.name} cannot be made: {error}") from error
        return unfinished.rename(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
