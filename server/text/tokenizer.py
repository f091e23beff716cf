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
from server.text.languages import Languages, Place
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
        self._vocabulary = vocabulary
        self._backend = vocabulary.backend
        self._languages = vocabulary.languages
        self._names = dict(vocabulary.names)
        self._cleans_up = vocabulary.cleans_up
        self._spell = spelling_of(vocabulary.backend)
        self._special = vocabulary.special_tokens()
        template = vocabulary.chat_template
        self._template = None if template is None else ChatTemplate(template, self._names)
        self.vocab_size: int = vocabulary.size
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

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes that `source_language` and `target_language` may be; none for most tokenizers."""
        return () if self._languages is None else tuple(self._languages.ids)

    @property
    def target_leads_the_source(self) -> bool:
        """Whether the encoder reads the target's language (Marian), and no decoder begins with it."""
        return self._languages is not None and self._languages.place is Place.TARGET_FIRST

    @property
    def target_is_the_start(self) -> bool:
        """Whether the decoder starts from the target's language (mBART), not from a start token before it."""
        return self._languages is not None and self._languages.target_is_the_start

    @property
    def target_begins_the_answer(self) -> bool:
        """Whether the target's language is the first token that the decoder writes (mBART-50, M2M100)."""
        asked = self._languages is not None
        return asked and not self.target_leads_the_source and not self.target_is_the_start

    def target_language_id(self, code: str) -> int:
        """The token of a language to translate into: the first that the decoder writes after its start.

        But it is the start itself where `target_is_the_start`, and where `target_leads_the_source`, the
        encoder reads it. Raises InvalidRequest.
        """
        return self._known_languages("tgt_lang").id_of(code, parameter="tgt_lang")

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> list[int]:
        """Token ids. A special token spelled out in the text becomes that token, as in transformers.

        The languages are those of a translation, for what stands around its source; without one given, it is
        the folder's own. Raises InvalidRequest for one that there is not.
        """
        before, after = self._around(add_special_tokens, source_language, target_language)
        encoding = self._backend.encode(text, add_special_tokens=self._surrounds(add_special_tokens))
        return [*before, *self._vocabulary.ids_of(encoding), *after]

    def encode_with_offsets(self, text: str, add_special_tokens: bool = True) -> list[TokenSpan]:
        """As `encode`, with the place of each token in the text, in characters."""
        before, after = self._around(add_special_tokens, None, None)
        encoding = self._backend.encode(text, add_special_tokens=self._surrounds(add_special_tokens))
        ids = [*before, *self._vocabulary.ids_of(encoding), *after]
        places = [*[(0, 0)] * len(before), *encoding.offsets, *[(0, 0)] * len(after)]
        return [self._span(text, id_, *place) for id_, place in zip(ids, places, strict=True)]

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
        token = self._vocabulary.token_of(id_)
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
        return self._vocabulary.id_of(self._names[role]) if role in self._names else None

    def _surrounds(self, add_special_tokens: bool) -> bool:
        """Whether the backend puts special tokens around a text: what depends on a request, it cannot."""
        return add_special_tokens and self._languages is None

    def _around(
        self, add_special_tokens: bool, source: str | None, target: str | None
    ) -> tuple[list[int], list[int]]:
        if self._languages is None:
            for code, parameter in ((source, "src_lang"), (target, "tgt_lang")):
                if code is not None:
                    self._known_languages(parameter)
            return [], []
        around = self._languages.around(source, target)
        return around if add_special_tokens else ([], [])

    def _known_languages(self, parameter: str) -> Languages:
        if self._languages is None:
            raise InvalidRequest(
                f"`{parameter}` cannot be given: this model's tokenizer has no languages", parameter=parameter
            )
        return self._languages

    def _ends_of_turn(self) -> frozenset[int]:
        if self._template is None:
            return frozenset()
        ids = (self._vocabulary.id_of(name) for name in _END_OF_TURN if name in self._template.source)
        return frozenset(id_ for id_ in ids if id_ is not None and self.is_special(id_))

    def _span(self, text: str, id_: int, start: int, stop: int) -> TokenSpan:
        shown = self._special.get(id_, text[start:stop])
        return TokenSpan(id=id_, text=shown, start=start, stop=stop, special=self.is_special(id_))
