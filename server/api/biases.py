"""Which tokens are to be favoured, allowed or banned, whatever the samplers make of the rest."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from server.api.fields import StrictBody, TokenId, Word, described
from server.errors import InvalidRequest

MAX_BIASES = 1024
MAX_BAD_WORDS = 128
MAX_RUN = 256  # tokens of one bad word: all are compared with the text's end at every step
MAX_ALLOWED = 2**18  # more than any vocabulary: the body's own limit comes first
BANNED = float("-inf")


def _only_false(value: bool) -> bool:
    if value:
        raise PydanticCustomError("only_false", "must be a number or false")
    return value


Bias = Annotated[float, Field(ge=-100, le=100)] | Annotated[bool, AfterValidator(_only_false)]
BiasedId = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
BiasPair = Annotated[tuple[TokenId, Bias], Field(strict=False)]  # JSON has no tuples
LogitBias = Annotated[
    Annotated[dict[BiasedId, Bias], Field(max_length=MAX_BIASES)]
    | Annotated[list[BiasPair], Field(max_length=MAX_BIASES)],
    described(
        f"an object of token ids, or a list of pairs of them, each with a number from -100 to 100 or false, "
        f"{MAX_BIASES} at most"
    ),
]

Run = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_RUN)]


class BiasParameters(StrictBody):
    """vLLM's and OpenAI's parameters; `logit_bias` as llama.cpp spells it, too."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    logit_bias: LogitBias | None = None
    """What is added to a token's logit; `false` bans it."""
    bad_words: Annotated[list[Word], Field(max_length=MAX_BAD_WORDS)] | None = None
    """Strings that must not be written."""
    bad_words_ids: Annotated[list[Run], Field(max_length=MAX_BAD_WORDS)] | None = None
    """Runs of tokens that must not be completed."""
    allowed_token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=MAX_ALLOWED)] | None = None

    @property
    def allowed_tokens(self) -> tuple[int, ...] | None:
        """The only tokens that may be chosen, each once; None: all."""
        return None if self.allowed_token_ids is None else tuple(dict.fromkeys(self.allowed_token_ids))

    def biases(self) -> tuple[tuple[int, float], ...]:
        """Tokens and what is added to their logits; minus infinity bans.

        Raises InvalidRequest for a token that is named twice, and where nothing is left to choose.
        """
        given = self.logit_bias or ()
        pairs = given.items() if isinstance(given, dict) else given
        biases = [(int(token), BANNED if bias is False else bias) for token, bias in pairs]
        tokens = [token for token, _ in biases]
        if len(set(tokens)) < len(tokens):
            raise InvalidRequest("`logit_bias` names a token twice", parameter="logit_bias")
        banned = {token for token, bias in biases if bias == BANNED}
        if self.allowed_token_ids and banned.issuperset(self.allowed_token_ids):
            raise InvalidRequest(
                "`logit_bias` bans every token of `allowed_token_ids`", parameter="allowed_token_ids"
            )
        return tuple(biases)
