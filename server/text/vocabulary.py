"""What the files of a tokenizer say, whichever kind of files they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenizers import Encoding, Tokenizer, processors

from server.text.languages import Languages


class Numbering:
    """Ids that a JSON file gives to tokens, in place of the backend's own.

    What is read and what is written may have one vocabulary, or one each.
    """

    def __init__(self, *, read: Mapping[str, int], written: Mapping[str, int], unknown: str) -> None:
        """Raises KeyError where `read` lacks the unknown token."""
        self.read = read
        self.written = written
        self.tokens = {id_: token for token, id_ in written.items()}
        self._unknown = read[unknown]

    def ids_of(self, tokens: list[str]) -> list[int]:
        return [self.read.get(token, self._unknown) for token in tokens]


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
    numbering: Numbering | None = None
    languages: Languages | None = None

    @property
    def size(self) -> int:
        """Ids that the model writes are below it."""
        if self.numbering is None:
            return self.backend.get_vocab_size(with_added_tokens=True)
        return max(self.numbering.tokens) + 1

    def ids_of(self, encoding: Encoding) -> list[int]:
        return encoding.ids if self.numbering is None else self.numbering.ids_of(encoding.tokens)

    def id_of(self, token: str) -> int | None:
        """The id of a token that the model writes; None where there is no such token."""
        return (
            self.backend.token_to_id(token) if self.numbering is None else self.numbering.written.get(token)
        )

    def token_of(self, id_: int) -> str | None:
        """The token that the model writes with this id; None where there is no such id."""
        return self.backend.id_to_token(id_) if self.numbering is None else self.numbering.tokens.get(id_)

    def special_tokens(self) -> dict[int, str]:
        """Tokens that are no text, by the ids with which the model writes them."""
        added = self.backend.get_added_tokens_decoder().values()
        ids = ((self.id_of(token.content), token.content) for token in added if token.special)
        return {id_: token for id_, token in ids if id_ is not None}


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
