"""A stream as text: however it is cut into tokens, what was sent is what the end says it was."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.messages import Generate, Sampled
from server.engine.transcript import Transcript
from server.request import Chunk, Finish, FinishReason, GenerateRequest, Sampling, Token
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


@settings(max_examples=200, deadline=None)
@given(texts, stops, st.lists(st.integers(1, 4), min_size=30, max_size=30), st.integers(0, 5))
def test_however_many_tokens_a_step_brings_the_stream_says_the_same(
    text: str, stop: list[str], sizes: list[int], at_least: int
) -> None:
    """Where guesses are right, a step brings several."""
    tokens = tokenizer("byte level")
    ids = tokens.encode(text, add_special_tokens=False)
    sampling = Sampling(min_new_tokens=at_least)

    def said(sizes: list[int]) -> tuple[list[Token], Finish]:
        command = Generate(1, "model", [], len(ids), sampling, [])
        request = GenerateRequest(prompt="", sampling=sampling, stop=tuple(stop))
        transcript, shown, start = Transcript(tokens, command, request), list[Token](), 0
        for size in sizes:
            scored = tuple(Scored(id_, -0.5) for id_ in ids[start : start + size])
            start += size
            chunk = transcript.push(Sampled(1, scored, FinishReason.LENGTH if start >= len(ids) else None))
            shown += chunk.tokens
            if chunk.finish is not None:
                return shown, chunk.finish
        raise AssertionError("the last token did not end the stream")

    assert said([*sizes, len(ids)]) == said([1] * len(ids))


def test_a_token_waits_while_its_text_may_yet_be_a_stop_string() -> None:
    chunks, finish = speak("aab", ["ab"])
    assert finish.text == "a"
    assert "".join(chunk.text for chunk in chunks[:-1]) in ("", "a")


def scored_prompt(prompt: str, *, pieces: int) -> tuple[Token, ...]:
    """What a stream of one token says of its prompt, whose scores come in so many pieces."""
    tokens = tokenizer("byte level")
    ids = tokens.encode(prompt, add_special_tokens=False)
    command = Generate(1, "model", ids, 1, Sampling(), [], prompt_alternatives=1)
    transcript = Transcript(tokens, command, GenerateRequest(prompt=prompt, sampling=command.sampling))
    scores = [Scored(id_, -0.25, ((id_, -0.25),)) for id_ in ids[1:]]
    cuts = [len(scores) * i // pieces for i in range(pieces + 1)]
    for start, stop in pairwise(cuts):
        chunk = transcript.push(Sampled(1, (), None, tuple(scores[start:stop])))
        assert not chunk.prompt
    return transcript.push(Sampled(1, (Scored(ids[0], -0.5),), FinishReason.LENGTH)).prompt


@pytest.mark.parametrize("prompt", ["a", "ab 日🙂é"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_scored_prompt_comes_whole_and_its_first_token_has_no_score(prompt: str, pieces: int) -> None:
    first, *rest = scored_prompt(prompt, pieces=pieces)
    assert first.logprob is None
    assert [token.logprob for token in rest] == [-0.25] * len(rest)
    assert all(token.alternatives[0].text == token.text for token in rest)
    assert "".join(token.text for token in (first, *rest)) == prompt


@pytest.mark.parametrize("scored", range(4))
def test_a_deadline_within_the_prompt_leaves_the_scores_that_there_are(scored: int) -> None:
    tokens = tokenizer("byte level")
    ids = tokens.encode("abba", add_special_tokens=False)
    command = Generate(1, "model", ids, 1, Sampling(), [], prompt_alternatives=0)
    transcript = Transcript(tokens, command, GenerateRequest(prompt="abba", sampling=command.sampling))
    transcript.push(Sampled(1, (), None, tuple(Scored(id_, -0.25) for id_ in ids[1 : 1 + scored])))
    chunk = transcript.push(Sampled(1, (), FinishReason.TIMEOUT))
    assert [token.id for token in chunk.prompt] == ids[: 1 + scored]
    assert [token.logprob for token in chunk.prompt] == [None, *[-0.25] * scored]
    assert chunk.finish is not None
    assert chunk.finish.prompt_tokens == len(ids)


def test_a_text_never_ends_within_a_character() -> None:
    tokens = tokenizer("byte level")
    ids = tokens.encode("é🙂", add_special_tokens=False)[:-1]
    command = Generate(1, "model", [], len(ids), Sampling(), [])
    transcript = Transcript(tokens, command, GenerateRequest(prompt="", sampling=command.sampling))
    scored = tuple(Scored(id_, -0.5) for id_ in ids)
    finish = transcript.push(Sampled(1, scored, FinishReason.LENGTH)).finish
    assert finish is not None
    assert finish.text == "é"
    assert finish.output_ids == tuple(ids)


def test_a_stop_string_is_kept_if_so_asked_and_what_follows_it_is_not() -> None:
    tokens = tokenizer("byte level")
    ids = tokens.encode("one stop two", add_special_tokens=False)
    command = Generate(1, "model", [], len(ids), Sampling(), [])
    request = GenerateRequest(prompt="", sampling=command.sampling, stop=("stop",), include_stop=True)
    scored = tuple(Scored(id_, -0.5) for id_ in ids)
    chunk = Transcript(tokens, command, request).push(Sampled(1, scored, None))
    assert chunk.finish is not None
    assert (chunk.finish.text, chunk.finish.stop) == ("one stop", "stop")
    assert chunk.text == "one stop"


def test_a_stop_token_ends_the_text_before_itself() -> None:
    tokens = tokenizer("byte level")
    ids = tokens.encode("ab", add_special_tokens=False)
    command = Generate(1, "model", [], 9, Sampling(), [ids[-1]])
    request = GenerateRequest(prompt="", sampling=command.sampling, stop_tokens=(ids[-1],))
    scored = tuple(Scored(id_, -0.5) for id_ in ids)
    finish = Transcript(tokens, command, request).push(Sampled(1, scored, FinishReason.EOS)).finish
    assert finish is not None
    assert (finish.reason, finish.stop) == (FinishReason.STOP, ids[-1])
    assert finish.text == tokens.decode(ids[:-1])


@pytest.mark.parametrize(("at_least", "expected"), [(2, "a"), (3, "a b a"), (11, "a b a b a b ")])
def test_no_stop_string_ends_a_text_that_is_too_short(at_least: int, expected: str) -> None:
    """Each letter and each blank is a token."""
    tokens = tokenizer("byte level")
    ids = [tokens.encode(character, add_special_tokens=False)[0] for character in "a b a b a b "]
    sampling = Sampling(min_new_tokens=at_least)
    command = Generate(1, "model", [], len(ids), sampling, [])
    request = GenerateRequest(prompt="", sampling=sampling, stop=(" b",))
    scored = tuple(Scored(id_, -0.5) for id_ in ids)
    chunk = Transcript(tokens, command, request).push(Sampled(1, scored, FinishReason.LENGTH))
    assert chunk.finish is not None
    assert chunk.finish.text == chunk.text == expected
    assert chunk.finish.generated_tokens >= at_least
