"""A stream as text: however it is cut into tokens, what was sent is what the end says it was."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.messages import Generate, Sampled
from server.engine.transcript import Transcript
from server.request import Chunk, Finish, FinishReason, GenerateRequest, Sampling
from server.scheduling.plan import Scored
from tests.text.vocabularies import tokenizer

texts = st.text("ab 日🙂é", min_size=1, max_size=30)
stops = st.lists(st.text("ab 日", min_size=1, max_size=4), max_size=3)


def speak(text: str, stop: list[str]) -> tuple[list[Chunk], Finish]:
    """The chunks of a stream that says `text`, as far as its stop strings let it."""
    tokens = tokenizer("byte level")
    ids = tokens.encode(text, add_special_tokens=False)
    command = Generate(1, "model", [], len(ids), Sampling(seed=5), [])
    request = GenerateRequest(prompt="", sampling=command.sampling, stop=tuple(stop))
    transcript = Transcript(tokens, command, request)
    chunks = list[Chunk]()
    for i, id_ in enumerate(ids):
        last = FinishReason.LENGTH if i == len(ids) - 1 else None
        chunk = transcript.push(Sampled(1, (Scored(id_, -0.5),), last))
        chunks.append(chunk)
        if chunk.finish is not None:
            return chunks, chunk.finish
    raise AssertionError("the last token did not end the stream")


@settings(max_examples=200, deadline=None)
@given(texts, stops)
def test_what_was_sent_is_the_text_up_to_the_stop_string(text: str, stop: list[str]) -> None:
    chunks, finish = speak(text, stop)
    assert "".join(chunk.text for chunk in chunks) == finish.text
    assert text.startswith(finish.text)
    assert not any(one in finish.text for one in stop)
    if finish.reason is FinishReason.STOP:
        assert finish.stop in stop
        assert text.startswith(finish.text + finish.stop)
    else:
        assert finish.text == text


@settings(max_examples=100, deadline=None)
@given(texts, stops)
def test_every_token_is_handed_out_once_and_in_order(text: str, stop: list[str]) -> None:
    chunks, finish = speak(text, stop)
    ids = tokenizer("byte level").encode(text, add_special_tokens=False)
    assert [token.id for chunk in chunks for token in chunk.tokens] == ids[: finish.generated_tokens]


def test_a_token_waits_while_its_text_may_yet_be_a_stop_string() -> None:
    chunks, finish = speak("aab", ["ab"])
    assert finish.text == "a"
    assert "".join(chunk.text for chunk in chunks[:-1]) in ("", "a")
