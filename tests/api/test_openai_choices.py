"""Laws of choices: pieces say what the whole says, however it is cut; and every offset finds its token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.api.edge import Answer
from server.api.openai.choices import ChatChoice, TextChoice, Wanted
from server.api.openai.logprobs import Scores, joined
from server.request import Alternative, Chunk, Finish, FinishReason, GenerateRequest, Sampling, Token

ALTERNATIVES = st.builds(
    Alternative, id=st.integers(0, 9), text=st.text(max_size=2), logprob=st.floats(-9, 0)
)
TOKENS = st.lists(
    st.builds(
        Token,
        id=st.integers(0, 9),
        text=st.text(max_size=3),  # none at all: the beginning of a character
        logprob=st.floats(-9, 0),
        special=st.booleans(),
        alternatives=st.lists(ALTERNATIVES, max_size=3).map(tuple),
    ),
    max_size=8,
).map(tuple)
PROMPTS = TOKENS.filter(bool).map(lambda tokens: (Token(id=1, text="<s>", logprob=None), *tokens))
WANTED = st.builds(
    Wanted,
    scores=st.none() | st.builds(Scores, alternatives=st.integers(0, 3), as_ids=st.booleans()),
    echo=st.booleans(),
    token_ids=st.booleans(),
)


def answer_of(prompt: tuple[Token, ...], tokens: tuple[Token, ...]) -> Answer:
    finish = Finish(
        reason=FinishReason.LENGTH,
        text="".join(token.text for token in tokens if not token.special),
        prompt_tokens=len(prompt),
        generated_tokens=len(tokens),
        seed=0,
        prompt_ids=tuple(token.id for token in prompt),
        output_ids=tuple(token.id for token in tokens),
    )
    return Answer(tokens=tokens, finish=finish, prompt=prompt)


def order_of(prompt: Sequence[Token]) -> GenerateRequest:
    return GenerateRequest(prompt=tuple(token.id for token in prompt), sampling=Sampling())


@st.composite
def cut(draw: st.DrawFn, answer: Answer) -> list[Chunk]:
    """The answer as a stream: its prompt comes first, its end last."""
    places = sorted(draw(st.lists(st.integers(0, len(answer.tokens)), max_size=4)))
    bounds = [0, *places, len(answer.tokens)]
    pieces = [answer.tokens[start:end] for start, end in pairwise(bounds)]
    last = len(pieces) - 1
    return [
        Chunk(
            tokens=tokens,
            finish=answer.finish if number == last else None,
            prompt=answer.prompt if number == 0 else (),
        )
        for number, tokens in enumerate(pieces)
    ]


@given(data=st.data(), prompt=PROMPTS, tokens=TOKENS, wanted=WANTED)
def test_the_pieces_of_a_text_say_what_the_whole_says(
    data: st.DataObject, prompt: tuple[Token, ...], tokens: tuple[Token, ...], wanted: Wanted
) -> None:
    answer = answer_of(prompt, tokens)
    whole = TextChoice(0, order_of(prompt), wanted).whole(answer)
    choice = TextChoice(0, order_of(prompt), wanted)
    pieces = [piece for chunk in data.draw(cut(answer)) if (piece := choice.piece(chunk)) is not None]
    together = pieces[-1] | {"text": "".join(piece["text"] for piece in pieces)}
    if wanted.scores is not None:
        together["logprobs"] = joined([piece["logprobs"] for piece in pieces])
    if wanted.token_ids:
        together["token_ids"] = [id_ for piece in pieces for id_ in piece["token_ids"]]
    assert together == whole
    assert [piece["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 1)


@given(data=st.data(), tokens=TOKENS, wanted=WANTED)
def test_the_pieces_of_a_chat_say_what_the_whole_says(
    data: st.DataObject, tokens: tuple[Token, ...], wanted: Wanted
) -> None:
    answer = answer_of((), tokens)
    whole = ChatChoice(0, order_of(()), wanted).whole(answer)
    choice = ChatChoice(0, order_of(()), wanted)
    first, *pieces = [piece for chunk in data.draw(cut(answer)) for piece in choice.pieces(chunk)]
    assert first["delta"] == {"role": "assistant", "content": ""}
    *pieces, last = pieces
    assert last["delta"] == {}
    assert (last["finish_reason"], last["stop_reason"]) == (whole["finish_reason"], whole["stop_reason"])
    assert "".join(piece["delta"]["content"] for piece in pieces) == whole["message"]["content"]
    if wanted.scores is not None:
        scored = [piece["logprobs"]["content"] for piece in pieces if piece["logprobs"] is not None]
        assert list(chain.from_iterable(scored)) == whole["logprobs"]["content"]
    if wanted.token_ids:
        ids = chain.from_iterable(piece.get("token_ids", ()) for piece in pieces)
        assert list(ids) == whole["token_ids"]


@given(prompt=PROMPTS, tokens=TOKENS, echo=st.booleans())
def test_every_offset_finds_its_token(
    prompt: tuple[Token, ...], tokens: tuple[Token, ...], echo: bool
) -> None:
    wanted = Wanted(scores=Scores(alternatives=0), echo=echo)
    choice: dict[str, Any] = TextChoice(0, order_of(prompt), wanted).whole(answer_of(prompt, tokens))
    shown = [*(prompt if echo else ()), *tokens]
    offsets = choice["logprobs"]["text_offset"]
    assert offsets == sorted(offsets)
    for number, (token, offset) in enumerate(zip(shown, offsets, strict=True)):
        generated = not echo or number >= len(prompt)
        if not (generated and token.special):
            assert choice["text"].startswith(token.text, offset)
