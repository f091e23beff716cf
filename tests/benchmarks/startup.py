"""How long `triptych serve` takes to its first answer, and where that time goes.

    python -m tests.benchmarks.startup [--runs 3] [-- FLAGS OF SERVE]

Starts the server and asks it to `/generate` one token, again and again until it does: seconds from the start
of the process to each of its announcements and to the answer. Then the stages that the engine process goes
through, one after another in a fresh interpreter, and what the other commands take. The models should be in
the cache, and the machine idle.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

BODY = json.dumps({"inputs": "The capital of France is", "parameters": {"max_new_tokens": 1}}).encode()
POLL_S = 0.02  # each answer takes a millisecond from the server that is loading
PATIENCE_S = 300.0
ANNOUNCEMENTS = {"listening": "HTTP listens", "serving": "models are loaded"}
COMMANDS = (("--help",), ("--version",), ("models", "--supported"))

# Each lap is a stage of `server.start_engine`; loading is that of `server.hosting`, model by model.
ENGINE = """
import time
began = last = time.perf_counter()
def lap(stage):
    global last
    now = time.perf_counter()
    print(f"{now - last:8.2f}  {stage}", flush=True)
    last = now
import gc; gc.disable()
import torch; lap("import torch")
from server import hosting, worker; lap("import what the engine needs")
from server.cli import _parser; from server.settings import read; from server.model_setups import bring
import sys
setup = bring(read(vars(_parser().parse_args(["serve", *sys.argv[1:]])))); lap("find the models")
load = hosting.Computing.load
def timed(computing, path, adapter=None):
    lap("between models")
    loaded = load(computing, path, adapter)
    lap(f"load {path.name}")
    return loaded
hosting.Computing.load = timed
hosting.load_all(setup); lap("caches, cards, trials of the arithmetic")
print(f"{last - began:8.2f}  together", flush=True)
"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--runs", type=int, default=3, help="starts of the server (3)")
    arguments.add_argument("serve", nargs="*", metavar="FLAGS", help="of `triptych serve`, after --")
    parsed = arguments.parse_args()
    runs = [_start(parsed.serve) for _ in range(parsed.runs)]
    print(f"triptych serve, seconds since its start, median of {parsed.runs} (each)")
    for phase in runs[0]:
        each = [run[phase] for run in runs]
        print(f"{statistics.median(each):8.2f}  {phase}  ({', '.join(f'{one:.2f}' for one in each)})")
    print("\nthe engine process, stage by stage, seconds of each")
    _run([sys.executable, "-c", ENGINE, *parsed.serve])
    print("\nother commands, seconds")
    for command in COMMANDS:
        began = time.perf_counter()
        _run([sys.executable, "-m", "server", *command], stdout=subprocess.DEVNULL)
        print(f"{time.perf_counter() - began:8.2f}  triptych {' '.join(command)}")
    return 0


def _run(command: Sequence[str], stdout: int | None = None) -> None:
    sys.stdout.flush()
    subprocess.run(command, check=True, stdout=stdout)


def _start(flags: Sequence[str]) -> dict[str, float]:
    """Seconds from the start of a server to each phase, in order."""
    port = free_port()
    began = time.perf_counter()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = list[tuple[float, str]]()
    reading = threading.Thread(target=lambda: said.extend(_lines(process, began)))
    reading.start()
    try:
        first_answer(process, f"http://127.0.0.1:{port}/generate", began)
        answered = time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        reading.join()
        if process.returncode:
            print(*(line for _, line in said), file=sys.stderr)
    words = ((at, line.split()) for at, line in said)
    phases = {ANNOUNCEMENTS[word[1]]: at for at, word in words if word[1:2] and word[1] in ANNOUNCEMENTS}
    return phases | {"first answer": answered}


def _lines(process: subprocess.Popen[str], began: float) -> Iterator[tuple[float, str]]:
    """What it says, and when."""
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            yield time.perf_counter() - began, line


def first_answer(process: subprocess.Popen[Any], url: str, began: float) -> None:
    """Returns when it was answered. Raises RuntimeError where the server ends first, or takes too long."""
    while time.perf_counter() - began < PATIENCE_S:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended by itself, with status {process.returncode}")
        request = urllib.request.Request(url, BODY, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                answer.read()
            return
        except (urllib.error.URLError, ConnectionError):  # not listening, or 503: still loading
            time.sleep(POLL_S)
    raise RuntimeError(f"no answer within {PATIENCE_S:g} s")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
