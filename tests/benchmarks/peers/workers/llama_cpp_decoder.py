"""llama.cpp: its own benchmarks, which measure what `measuring.measure_decoder` does: 512 tokens of a prompt,
and 127 tokens after the first for batches of prompts of 32."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.workers.measuring import BATCHES, NEW_TOKENS, PREFILL_TOKENS, PROMPT_TOKENS
from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    task.report("prefill_512", max(_prefill_per_s(task)))
    best = dict.fromkeys(BATCHES, 0.0)
    for _ in range(task.repeats):
        for batch, rate in _decoded_per_s(task):
            best[batch] = max(best[batch], rate)
    for batch, rate in best.items():
        task.report(f"decode_{batch}", rate)


def _prefill_per_s(task: Task) -> list[float]:
    (measured,) = json.loads(
        _output("llama-bench", task, "-p", PREFILL_TOKENS, "-n", 0, "-r", task.repeats + 1, "-o", "json")
    )
    return [float(rate) for rate in measured["samples_ts"]]


def _decoded_per_s(task: Task) -> Iterator[tuple[int, float]]:
    room = max(BATCHES) * (PROMPT_TOKENS + NEW_TOKENS)
    shape = ["-npp", PROMPT_TOKENS, "-ntg", NEW_TOKENS, "-npl", ",".join(map(str, BATCHES)), "-c", room]
    for line in _output("llama-batched-bench", task, *shape, "--output-format", "jsonl").splitlines():
        if line.startswith("{"):
            measured = json.loads(line)
            yield int(measured["pl"]), float(measured["speed_tg"])


def _output(program: str, task: Task, *arguments: Any) -> str:
    path = Path(sys.executable).with_name(program)
    words = [path, "-m", task.model, "-t", task.threads, *arguments]
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main(Task.read())
