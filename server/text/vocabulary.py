"""What the files of a tokenizer say, whichever kind of files they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenizers import Tokenizer, processors


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Read once by `folder` or `gguf`, then kept by `tokenizer.Tokenizer`."""

    backend: Tokenizer
    names: Mapping[str, str] = field(
        default_factory=dict
    )  # special tokens by role: "bos_token", "mask_token"
    stop_ids: frozenset[int] = frozenset()  # what the files say ends a text
    chat_template: str | None = None
    cleans_up: bool = False  # decoding takes back the spaces before punctuation


def surround(backend: Tokenizer, *, before: str | None, after: str | None) -> None:
    """Let encoding put these tokens around each text. Raises ValueError for one that the vocabulary lacks."""
    present = dict.fromkeys(token for token in (before, after) if token is not None)
    ids = [(token, id_of(backend, token)) for token in present]
    single = [*([before] if before else []), "$A", *([after] if after else [])]
    # As lists, because in a string a space or a colon within a token would mean something.
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=[*single, "$B"], special_tokens=ids
    )


def id_of(backend: Tokenizer, token: str) -> int:
    """Raises ValueError naming a token that the vocabulary lacks."""
    id_ = backend.token_to_id(token)
    if id_ is None:
        raise ValueError(f"its vocabulary lacks {token}")
    return id_
