"""Fetches models from the Hugging Face hub: only the files that make a model, verified, resuming."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import PickleRefused, SourceError, SourceNotFound, SourceUnreachable
from models.weights.store import belongs, keep, verify

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

IMPATIENCE_S = 2.5  # where there is another source to try
PATIENCE_S = 10.0  # where there is none
STALL_S = 10.0  # without a byte
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a repository holds at one commit. `sha256` is of the large files, for which the hub states it."""

    repository: str
    commit: str
    files: Mapping[str, int | None]  # sizes in bytes, where the hub states them
    sha256: Mapping[str, str]

    def choose(self, file: str | None) -> list[str]:
        """The files to fetch: this one, or those that make a model folder. Raises as `resolve` does."""
        ggufs = [name for name in self.files if name.lower().endswith(".gguf")]
        if file is not None:
            if file not in self.files:
                raise SourceNotFound(
                    f"{self.repository} has no {file}; it has {', '.join(ggufs) or 'no GGUF file'}"
                )
            return [file]
        chosen = [name for name in self.files if belongs(name)]
        if any(name.endswith(".safetensors") for name in chosen):
            return chosen
        if ggufs:
            raise SourceNotFound(
                f"{self.repository} holds GGUF files; name one as {self.repository}:FILE: {', '.join(ggufs)}"
            )
        pickles = [name for name in self.files if name.endswith((".bin", ".pt", ".pth"))]
        if pickles:
            raise PickleRefused(self.repository, pickles)
        raise SourceNotFound(f"{self.repository} has neither safetensors nor GGUF weights")


def look_up(repository: str, *, timeout_s: float) -> Listing:
    """Ask the hub what the repository holds. Returns or raises within `timeout_s`.

    Raises SourceNotFound where the hub says that there is none, SourceUnreachable where it does not answer.
    """
    answers: queue.SimpleQueue[Listing | SourceError] = queue.SimpleQueue()

    def ask() -> None:
        answers.put(_ask(repository, timeout_s))

    # In a thread that may be left behind: no timeout reaches into a name server that does not answer.
    threading.Thread(target=ask, daemon=True, name="hub look-up").start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise SourceUnreachable(f"the Hugging Face hub did not answer within {timeout_s:g} s") from None
    if isinstance(answer, SourceError):
        raise answer
    return answer


def _ask(repository: str, timeout_s: float) -> Listing | SourceError:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(repository, timeout=timeout_s, files_metadata=True)
    except GatedRepoError:
        return SourceNotFound(f"{repository} is gated: accept its terms on the hub and set HF_TOKEN")
    except RepositoryNotFoundError:
        return SourceNotFound(f"the hub has no {repository}, or it is private and HF_TOKEN does not open it")
    except HFValidationError as error:
        return SourceNotFound(f"{repository} cannot be a hub id: {_first_line(error)}")
    # Anything, because the hub's client has changed its HTTP library, and so its errors, between versions.
    except Exception as error:
        return SourceUnreachable(f"the Hugging Face hub is unreachable ({_first_line(error)})")
    return _listing(repository, info)


def _listing(repository: str, info: ModelInfo) -> Listing:
    siblings = info.siblings or []
    return Listing(
        repository=repository,
        commit=info.sha or "main",
        files={sibling.rfilename: sibling.size for sibling in siblings},
        sha256={sibling.rfilename: sibling.lfs.sha256 for sibling in siblings if sibling.lfs is not None},
    )


def download(
    listing: Listing, files: Sequence[str], folder: Path, *, sha256: Mapping[str, str] | None = None
) -> None:
    """Fetch `files` into `folder`, which appears when all are there and verified.

    Sums are those of `sha256` where it knows the file, else the hub's. What a broken-off attempt brought of
    the same commit is not fetched again. Raises SourceUnreachable or ChecksumMismatch.
    """
    sums = {**listing.sha256, **(sha256 or {})}
    with keep(folder, unfinished=folder.with_name(f".{folder.name}.{listing.commit[:12]}")) as unfinished:
        for name in files:
            _download(listing, name, unfinished / name)
            if name in sums:
                verify(unfinished / name, sums[name])


def _download(listing: Listing, name: str, target: Path) -> None:
    if target.exists():
        return
    # Ours, because the hub client's own begins anew after a break (huggingface_hub 2.4).
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    complete = False
    while not complete:
        before = _size(part)
        try:
            _fetch_rest(listing, name, part)
            complete = True
        except Exception as error:  # as above
            if _size(part) > before:
                continue  # a broken connection; as long as something comes, it is worth another
            raise SourceUnreachable(
                f"{name} of {listing.repository} could not be downloaded ({_first_line(error)}); "
                "try again, it goes on where it stopped"
            ) from error
    os.replace(part, target)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _fetch_rest(listing: Listing, name: str, part: Path) -> None:
    """Bring `part` to its full length, from wherever it stands."""
    from huggingface_hub import get_session, get_token, hf_hub_url

    size = listing.files[name]
    there = _size(part)
    if there and there == size:
        return
    headers = {"Accept-Encoding": "identity"}  # the size is of the file, not of what a proxy makes of it
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    if there:
        headers["Range"] = f"bytes={there}-"
    url = hf_hub_url(listing.repository, name, revision=listing.commit)
    with get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=STALL_S
    ) as response:
        response.raise_for_status()
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            there = 0  # the server sends it all again
        _append(response.iter_bytes(CHUNK_BYTES), part, there, size)


def _append(chunks: Iterable[bytes], part: Path, there: int, size: int | None) -> None:
    from tqdm import tqdm

    name = part.name.removesuffix(".part")
    small = size is not None and size < CHUNK_BYTES
    with (
        part.open("r+b" if there else "wb") as file,
        tqdm(
            desc=name, total=size, initial=there, unit="B", unit_scale=True, file=sys.stderr, disable=small
        ) as progress,
    ):
        file.seek(there)
        for chunk in chunks:
            file.write(chunk)
            file.flush()  # what has arrived is there for the next attempt
            progress.update(len(chunk))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
