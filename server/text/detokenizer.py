"""Text that grows by a token at a time and is never taken back."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from server.text.tokenizer import Tokenizer

_LONGEST_CHARACTER = 4  # bytes in UTF-8


class Detokenizer:
    """Feed it tokens; each returns the text that is now certain.

    What all `push` returned, followed by `flush`, is `tokenizer.decode` of all tokens pushed. A character
    whose bytes are still coming is held back; bytes that can no longer become one are U+FFFD. Special tokens
    add nothing. Each push costs as much as its own token.

    `prompt` is what the tokens follow, so that a word that goes on after it keeps its leading space, and a
    character cut in two by its end is completed.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._first = all(tokenizer.is_special(token) for token in prompt)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.decode(self._tail(prompt))

    def push(self, token: int) -> str:
        """The text that is certain since the last push; often one token's, sometimes none."""
        if self._tokenizer.is_special(token):
            return ""
        spelled = self._tokenizer.spell(token, first=self._first)
        self._first = False
        return self._decoder.decode(spelled)

    def flush(self) -> str:
        """What is still held back, at the end: U+FFFD if the text ended within a character."""
        return self._decoder.decode(b"", final=True)

    def _tail(self, prompt: Sequence[int]) -> bytes:
        """The prompt's last bytes: enough to know whether it ends within a character."""
        tail: Iterable[int] = prompt[-_LONGEST_CHARACTER:]
        visible = [token for token in tail if not self._tokenizer.is_special(token)]
        return b"".join(self._tokenizer.spell(token, first=False) for token in visible)
