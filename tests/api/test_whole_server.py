"""The app over the real engine, its loop and real tokenizers: only the device is a few lines of Python."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from httpx import ASGITransport, AsyncClient

from server.api.app import create_app
from server.engine import messages
from server.engine.engine import Engine
from server.engine.link import Link
from server.engine.loop import Loop
from server.engine.messages import Ready, frame
from server.engine.stats import Stats
from server.engine.transcript import Transcript
from server.execution.adapters import LoadedAdapters
from server.execution.constraints import Constraints
from server.request import Chunk, EmbedWork
from server.scheduling.blocks import BlockPool
from server.scheduling.encoding import EncodingLane
from server.scheduling.generation import GenerationLane
from server.scheduling.plan import DecodeStep, Encoded, Results, Sampled, Scored, Slice, Step
from server.scheduling.scheduler import Scheduler
from server.text.tokenizer import Tokenizer
from server.text.vocabulary import Vocabulary
from tests.fakes import DECODER, ENCODER
from tests.text.vocabularies import byte_level, word_piece

pytestmark = pytest.mark.anyio

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:{{ message.content }};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
SENTENCE = " jumps over the lazy dog, naïve café 🙂 and so on"
SPEECH = SENTENCE * 9


class Speaker:
    """Says `SENTENCE` over and over, whatever the prompt, and sees "paris" behind every mask."""

    def __init__(self, decoder: Tokenizer, encoder: Tokenizer) -> None:
        self._says = decoder.encode(SENTENCE)
        self._paris = encoder.encode("paris", add_special_tokens=False)[0]
        self.poisoned = False

    def run(self, step: Step) -> Results:
        if self.poisoned:
            raise RuntimeError("the device is broken")
        if isinstance(step, DecodeStep):
            return Results(
                sampled={
                    piece.sequence.id: Sampled(tuple(Scored(token, -0.5) for token in self._say(piece)))
                    for piece in step.slices
                    if piece.samples
                }
            )
        return Results(
            encoded={
                passage.id: Encoded(vector=(0.6, 0.8))
                if isinstance(passage.work, EmbedWork)
                else Encoded(masks=tuple(((self._paris, 0.9),) for _ in passage.work.positions))
                for passage in step.passages
            }
        )

    def _say(self, piece: Slice) -> Iterator[int]:
        """The next token, and one more for each that the draft foresaw."""
        first = piece.sequence.generated
        for number, guess in enumerate((*piece.draft, None), first):
            token = self._says[number % len(self._says)]
            yield token
            if token != guess:
                return


@asynccontextmanager
async def whole_server(*, max_requests: int = 64) -> AsyncIterator[tuple[AsyncClient, Speaker]]:
    tokenizers = {
        DECODER.name: Tokenizer(Vocabulary(backend=byte_level(), chat_template=TEMPLATE)),
        ENCODER.name: Tokenizer(Vocabulary(backend=word_piece(), names={"mask_token": "[MASK]"})),
    }
    speaker = Speaker(tokenizers[DECODER.name], tokenizers[ENCODER.name])
    scheduler = Scheduler(
        {
            DECODER.name: GenerationLane(
                DECODER.name, BlockPool(64, 4), max_batch_tokens=32, max_sequences=8
            ),
            ENCODER.name: EncodingLane(ENCODER.name, max_batch_tokens=32, max_passages=8),
        }
    )
    ours, theirs = socket.socketpair()
    theirs.sendall(frame(Ready(cards=[DECODER, ENCODER])))
    loop = Loop(theirs, scheduler, speaker, Constraints({}, {}), LoadedAdapters({}))
    thread = threading.Thread(target=loop.run)
    thread.start()
    link = Link(Stats())
    await link.connect(ours)
    engine = Engine(link, tokenizers, max_requests=max_requests)
    try:
        await engine.load()
        transport = ASGITransport(create_app(engine))
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, speaker
    finally:
        await engine.close()  # which is what ends the loop
        await asyncio.to_thread(thread.join, 10)
        theirs.close()
        assert not thread.is_alive()


async def test_a_stream_says_what_the_document_says() -> None:
    async with whole_server() as (client, _):
        body = {"inputs": "the quick", "parameters": {"max_new_tokens": 30, "details": True}}
        whole = (await client.post("/generate", json=body)).json()
        streamed = await client.post("/generate_stream", json=body)
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert SPEECH.startswith(whole["generated_text"])
    assert events[-1]["generated_text"] == whole["generated_text"]
    assert "".join(event["token"]["text"] for event in events) == whole["generated_text"]
    assert [event["token"] for event in events] == whole["details"]["tokens"]
    assert events[-1]["details"]["generated_tokens"] == len(events) == 30


async def test_a_stop_string_never_leaks() -> None:
    async with whole_server() as (client, _):
        body = {"prompt": "the quick", "max_tokens": 40, "stop": ["lazy dog"], "stream": True}
        response = await client.post("/v1/completions", json=body)
    payloads = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert "".join(each["choices"][0]["text"] for each in payloads) == " jumps over the "
    assert payloads[-1]["choices"][0]["stop_reason"] == "lazy dog"


async def test_many_prompts_are_generated_side_by_side() -> None:
    async with whole_server() as (client, _):
        body = {"prompt": ["the", "quick", "brown"] * 4, "max_tokens": 5}
        answer = (await client.post("/v1/completions", json=body)).json()
    assert len(answer["choices"]) == 12
    assert len({choice["text"] for choice in answer["choices"]}) == 1


async def test_a_conversation_is_rendered_by_the_models_template() -> None:
    async with whole_server() as (client, _):
        messages = [{"role": "user", "content": "Paris"}]
        chat = await client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 3})
        tokens = await client.post("/tokenize", json={"messages": messages, "return_token_strs": True})
    assert SPEECH.startswith(chat.json()["choices"][0]["message"]["content"])
    assert chat.json()["usage"]["prompt_tokens"] == tokens.json()["count"]
    assert "".join(tokens.json()["token_strs"]) == "user:Paris;assistant:"


async def test_masks_are_filled_and_texts_embedded_beside_a_stream() -> None:
    async with whole_server() as (client, _):
        generation, masks, vectors = await asyncio.gather(
            client.post("/generate", json={"inputs": "the", "parameters": {"max_new_tokens": 40}}),
            client.post("/fill-mask", json={"inputs": "[MASK] is the capital of france"}),
            client.post("/embed", json={"inputs": ["paris", "france"]}),
        )
    assert SPEECH.startswith(generation.json()["generated_text"])
    assert masks.json()[0]["token_str"] == "paris"
    assert masks.json()[0]["sequence"] == "paris is the capital of france"
    assert vectors.json() == [[0.6, 0.8]] * 2


async def test_tokens_point_into_the_text() -> None:
    async with whole_server() as (client, _):
        text = "the quick café"
        body = {"inputs": [text], "model": ENCODER.name}
        (tokens,) = (await client.post("/tokenize", json=body)).json()
    assert tokens[0] == {"id": 2, "text": "[CLS]", "special": True, "start": None, "stop": None}
    inner = [token for token in tokens if not token["special"]]
    assert all(text[token["start"] : token["stop"]] == token["text"] for token in inner)


async def test_what_the_engine_refuses_is_a_clear_error() -> None:
    async with whole_server() as (client, _):
        long = await client.post("/generate", json={"inputs": "fox " * 200})
        unmasked = await client.post("/fill-mask", json={"inputs": "paris"})
        large = await client.post("/embed", json={"inputs": "paris", "dimensions": 3})
    assert (long.status_code, long.json()["error_type"]) == (422, "validation")
    assert "must have at most 63 tokens" in long.json()["error"]
    assert (unmasked.status_code, large.status_code) == (422, 422)
    assert "[MASK]" in unmasked.json()["error"]
    assert "`dimensions` must be between 1 and 2" in large.json()["error"]


async def test_a_full_queue_says_when_to_come_back() -> None:
    async with whole_server(max_requests=1) as (client, _):
        body = {"inputs": "the", "parameters": {"max_new_tokens": 40}}
        responses = await asyncio.gather(*(client.post("/generate", json=body) for _ in range(8)))
    statuses = {response.status_code for response in responses}
    assert statuses == {200, 429}
    refused = next(response for response in responses if response.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_scored_prompt_is_spelled_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take half a second; the tokens of the text that follow do not."""
    here, push = threading.get_ident(), Transcript.push
    beside = list[bool]()

    def noted(transcript: Transcript, sampled: messages.Sampled) -> Chunk:
        beside.append(threading.get_ident() != here)
        return push(transcript, sampled)

    monkeypatch.setattr(Transcript, "push", noted)
    async with whole_server() as (client, _):
        body = {"prompt": "the quick", "max_tokens": 3, "echo": True, "logprobs": 1}
        assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert beside == [True, False, False]


async def test_each_sample_of_a_request_takes_a_place_of_its_own() -> None:
    async with whole_server(max_requests=3) as (client, _):
        statuses = [
            (
                await client.post("/v1/completions", json={"prompt": "the", "max_tokens": 4, "n": n})
            ).status_code
            for n in (3, 4, 3)  # whoever is refused leaves nobody behind
        ]
    assert statuses == [200, 429, 200]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_timeout_that_cannot_be_met_is_refused_in_every_dialect(stream: bool) -> None:
    """So short that it has passed by the time that anybody looks."""
    common = {"max_tokens": 4, "timeout": 1e-6, "stream": stream}
    bodies: dict[str, dict[str, object]] = {
        "/generate_stream" if stream else "/generate": {"inputs": "the", "parameters": {"timeout": 1e-6}},
        "/v1/completions": {"prompt": "the", **common},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "the"}], **common},
    }
    async with whole_server() as (client, _):
        for path, body in bodies.items():
            response = await client.post(path, json=body)
            assert response.status_code == 429, path
            assert int(response.headers["retry-after"]) >= 1
            assert "`timeout` passed before the text could be begun" in response.text
        metrics = (await client.get("/metrics")).text
    assert 'triptych_requests_total{model="gpt",outcome="refused",task="generate"} 3.0' in metrics


async def test_what_was_found_again_and_what_was_guessed_is_counted() -> None:
    async with whole_server() as (client, _):
        body = {"prompt": SENTENCE, "max_tokens": 40}
        first, second = [(await client.post("/v1/completions", json=body)).json() for _ in range(2)]
        metrics = (await client.get("/metrics")).text.splitlines()
    assert first["choices"] == second["choices"]
    counted = {
        line.split("{")[0]: float(line.split()[-1])
        for line in metrics
        if line.startswith("triptych_") and '{model="gpt"}' in line
    }
    cached = [each["usage"]["prompt_tokens_details"]["cached_tokens"] for each in (first, second)]
    assert cached[0] == 0 < cached[1]
    assert counted["triptych_cached_tokens_total"] == cached[1]
    accepted, drafted = (counted[f"triptych_{kind}_tokens_total"] for kind in ("accepted", "drafted"))
    assert 0 < accepted <= drafted
    assert counted["triptych_generated_tokens_total"] == 80


async def test_a_broken_device_is_told_and_counted() -> None:
    async with whole_server() as (client, speaker):
        assert (await client.get("/ready")).status_code == 200
        speaker.poisoned = True
        response = await client.post("/generate", json={"inputs": "the"})
        assert (response.status_code, response.json()["error_type"]) == (424, "generation")
        metrics = (await client.get("/metrics")).text
    assert 'triptych_requests_total{model="gpt",outcome="failed",task="generate"} 1.0' in metrics
