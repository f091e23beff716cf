"""One face over every tokenizer: text to tokens, tokens to text, and the tokens that mean something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from server.errors import InvalidRequest
from server.text.chat import ChatTemplate
from server.text.errors import TokenizerUnusable
from server.text.folder import read_folder
from server.text.gguf import read_gguf
from server.text.spelling import clean_up, spelling_of
from server.text.vocabulary import Vocabulary

# What ends an answer in the chat formats that name their turns. One counts if the model's template writes it.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpan:
    """A token and the characters of the text that it covers. One that was put around the text covers none."""

    id: int
    text: str  # the covered characters; for a special token, its name
    start: int
    stop: int
    special: bool


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model folder or a .gguf file. Raises TokenizerUnusable."""
    vocabulary = read_folder(path) if path.is_dir() else read_gguf(path)
    try:
        return Tokenizer(vocabulary)
    except (ValueError, jinja2.TemplateSyntaxError) as error:
        raise TokenizerUnusable(path, str(error)) from error


class Tokenizer:
    """Never changes once made, so threads may share it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises ValueError for a decoder that is not implemented, jinja2.TemplateSyntaxError."""
        self._backend = vocabulary.backend
        self._names = dict(vocabulary.names)
        self._cleans_up = vocabulary.cleans_up
        self._spell = spelling_of(vocabulary.backend)
        added = vocabulary.backend.get_added_tokens_decoder()
        self._special = {id_: token.content for id_, token in added.items() if token.special}
        template = vocabulary.chat_template
        self._template = None if template is None else ChatTemplate(template, self._names)
        self.vocab_size: int = vocabulary.backend.get_vocab_size(with_added_tokens=True)
        self.eos_ids: frozenset[int] = vocabulary.stop_ids | self._ends_of_turn()

    @property
    def mask_token(self) -> str | None:
        return self._names.get("mask_token")

    @property
    def mask_id(self) -> int | None:
        return self._id("mask_token")

    @property
    def bos_id(self) -> int | None:
        return self._id("bos_token")

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids. A special token spelled out in the text becomes that token, as in transformers."""
        return self._backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_with_offsets(self, text: str, add_special_tokens: bool = True) -> list[TokenSpan]:
        """As `encode`, with the place of each token in the text, in characters."""
        encoding = self._backend.encode(text, add_special_tokens=add_special_tokens)
        return [
            self._span(text, id_, *place) for id_, place in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of these tokens. Bytes that are no UTF-8 are U+FFFD; unknown ids are nothing."""
        spelled = bytearray()
        first = True
        for id_ in ids:
            if skip_special_tokens and self.is_special(id_):
                continue
            spelled += self.spell(id_, first=first)
            first = False
        text = spelled.decode("utf-8", errors="replace")
        return clean_up(text) if self._cleans_up else text

    def spell(self, id_: int, *, first: bool) -> bytes:
        """What one token adds to a text, in UTF-8. `first`: no token came before it."""
        token = self._backend.id_to_token(id_)
        return b"" if token is None else self._spell(token, first)

    def token_text(self, id_: int) -> str:
        """A special token's name; of another token the text that it adds within a text."""
        if id_ in self._special:
            return self._special[id_]
        return self.spell(id_, first=False).decode("utf-8", errors="replace")

    def is_special(self, id_: int) -> bool:
        return id_ in self._special

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt that the model's own template makes of a conversation: see `ChatTemplate.render`.

        Encode it with `add_special_tokens=False`: the template has written them. Raises InvalidRequest.
        """
        if self._template is None:
            raise InvalidRequest(
                "this model has no chat template: it cannot take `messages`", parameter="messages"
            )
        return self._template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **variables,
        )

    def _id(self, role: str) -> int | None:
        return self._backend.token_to_id(self._names[role]) if role in self._names else None

    def _ends_of_turn(self) -> frozenset[int]:
        if self._template is None:
            return frozenset()
        ids = (self._backend.token_to_id(name) for name in _END_OF_TURN if name in self._template.source)
        return frozenset(id_ for id_ in ids if id_ is not None and self.is_special(id_))

    def _span(self, text: str, id_: int, start: int, stop: int) -> TokenSpan:
        shown = self._special.get(id_, text[start:stop])
        return TokenSpan(id=id_, text=shown, start=start, stop=stop, special=self.is_special(id_))
