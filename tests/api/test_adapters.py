"""Adapters through the wire: asked for by name in every dialect, loaded and unloaded as vLLM has it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from httpx import ASGITransport, AsyncClient, Response

from models.decoder import Decoder
from models.kv_cache import KVCache
from models.layers.linear import Linear
from models.loading import LoadedDecoder
from server.api.app import create_app
from server.engine.engine import Engine
from server.engine.link import Link
from server.engine.loop import Loop
from server.engine.messages import Ready, frame
from server.engine.stats import Stats
from server.execution.adapters import Base, LoadedAdapters
from server.execution.constraints import Constraints
from server.execution.generation import DecoderRunner
from server.execution.runner import Runner
from server.scheduling.blocks import BlockPool
from server.scheduling.generation import GenerationLane
from server.scheduling.scheduler import Scheduler
from server.text.tokenizer import Tokenizer
from server.text.vocabulary import Vocabulary
from tests.api.conftest import Served
from tests.api.test_whole_server import TEMPLATE
from tests.execution.loras import llama, write_lora
from tests.execution.test_generation import CONFIG, CPU
from tests.fakes import DECODER, ENCODER, FakeEngine
from tests.text.vocabularies import byte_level

pytestmark = pytest.mark.anyio

torch.set_num_threads(1)
CARDS = (replace(DECODER, adapters=("sql", "poet")), replace(ENCODER, adapters=("legal",)))
GREEDY = {"max_new_tokens": 12, "details": True}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(cards=CARDS)


async def test_adapters_are_listed_behind_their_models(client: AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()["data"]
    assert [(one["id"], one.get("parent")) for one in listed] == [
        ("gpt", None),
        ("sql", "gpt"),
        ("poet", "gpt"),
        ("org/bert", None),
        ("legal", "org/bert"),
    ]
    assert (await client.get("/v1/models/legal")).json()["parent"] == "org/bert"
    assert [card["adapters"] for card in (await client.get("/info")).json()["models"]] == [
        ["sql", "poet"],
        ["legal"],
    ]


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/generate", {"inputs": "hi", "model": "sql"}, "sql"),
        ("/generate", {"inputs": "hi", "parameters": {"adapter_id": "poet"}}, "poet"),
        ("/generate", {"inputs": "hi", "model": "gpt", "parameters": {"adapter_id": "poet"}}, "poet"),
        ("/generate_stream", {"inputs": "hi", "parameters": {"adapter_id": "sql"}}, "sql"),
        ("/v1/completions", {"prompt": "hi", "model": "sql"}, "sql"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "model": "poet"}, "poet"),
        ("/embed", {"inputs": "hi", "model": "legal"}, "legal"),
        ("/v1/embeddings", {"input": "hi", "model": "legal"}, "legal"),
        ("/fill-mask", {"inputs": "hi [MASK]", "model": "legal"}, "legal"),
        ("/models/sql", {"inputs": "hi"}, "sql"),
    ],
)
async def test_every_dialect_asks_for_an_adapter_by_its_name(
    client: AsyncClient, engine: FakeEngine, path: str, body: dict[str, Any], name: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert [request.model for request in engine.asked] == [name]
    if path.startswith("/v1"):
        assert response.json()["model"] == name


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": "hi", "parameters": {"adapter_id": "nobody"}},
        {"inputs": "hi", "parameters": {"adapter_id": "gpt"}},
        {"inputs": "hi", "model": "org/bert", "parameters": {"adapter_id": "sql"}},
    ],
)
async def test_an_unknown_adapter_is_not_found(client: AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post("/generate", json=body)
    assert response.status_code == 404
    assert response.json()["error"].startswith(
        "the adapter named in `adapter_id` is not loaded; loaded: legal"
    )


async def test_an_adapter_cannot_do_what_its_model_cannot(client: AsyncClient) -> None:
    response = await client.post("/embed", json={"inputs": "hi", "model": "sql"})
    assert response.status_code == 422
    assert "cannot do embed" in response.text


async def test_adapters_are_loaded_only_where_a_folder_was_given(client: AsyncClient) -> None:
    for path, body in (("load", {"lora_name": "x", "lora_path": "x"}), ("unload", {"lora_name": "sql"})):
        response = await client.post(f"/v1/{path}_lora_adapter", json=body)
        assert response.status_code == 403
        assert "--lora-folder" in response.json()["error"]["message"]


async def test_loading_and_unloading_answer_as_vllm_does(
    engine: FakeEngine, served: Served, tmp_path: Path
) -> None:
    (tmp_path / "deep" / "new").mkdir(parents=True)
    async with served(engine, lora_folder=tmp_path) as client:
        body = {"lora_name": "new", "lora_path": "deep/new", "model": "gpt"}
        loaded = await client.post("/v1/load_lora_adapter", json=body)
        assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'new' added successfully.")
        assert engine.loaded == {"new": str(tmp_path / "deep" / "new")}
        unloaded = await client.post("/v1/unload_lora_adapter", json={"lora_name": "new"})
        assert unloaded.text == "Success: LoRA adapter 'new' removed successfully."
        again = await client.post("/v1/unload_lora_adapter", json={"lora_name": "new"})
        assert again.status_code == 404
        assert "`lora_name` is not loaded; loaded: legal, poet, sql" in again.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../other",
        "in/../../other",
        "/etc",
        "absent",
        "link",
        "in/link",
        "linked",
        "in\0",
        "file",
        "n" * 256,
    ],
)
async def test_no_path_leads_out_of_the_folder(
    engine: FakeEngine, served: Served, tmp_path: Path, path: str
) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in (root / "in", root / "linked", other):
        folder.mkdir(parents=True)
    (root / "file").write_text("no folder")
    (other / "adapter_config.json").write_text("{}")
    (root / "link").symlink_to(other)
    (root / "in" / "link").symlink_to("../..")
    (root / "linked" / "adapter_config.json").symlink_to(other / "adapter_config.json")
    async with served(engine, lora_folder=root) as client:
        response = await client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": path})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "lora_path"
    assert engine.loaded == {}


async def test_a_folder_reached_by_a_link_is_the_folder(
    engine: FakeEngine, served: Served, tmp_path: Path
) -> None:
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "entry").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "alias").symlink_to("in")
    async with served(engine, lora_folder=tmp_path / "entry") as client:
        response = await client.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "alias"})
    assert response.status_code == 200


TINY = replace(CONFIG, vocab_size=400, context_length=512)


def tiny_model() -> LoadedDecoder:
    torch.manual_seed(0)
    decoder = Decoder(TINY).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.data *= 3  # sure of itself, so that a small change changes what it says
    return LoadedDecoder(config=TINY, decoder=decoder, fingerprint="fp", parameters=1)


@asynccontextmanager
async def real_server(folder: Path) -> AsyncIterator[tuple[AsyncClient, LoadedDecoder]]:
    """The app over a real engine and a tiny LLaMA with the adapter `first`; others come from `folder`."""
    loaded = tiny_model()
    cache = KVCache(TINY, num_blocks=256, block_size=4, device=CPU, dtype=torch.float32)
    runner = Runner({"gpt": DecoderRunner(loaded.decoder, cache, CPU)})
    lane = GenerationLane("gpt", BlockPool(256, 4), max_batch_tokens=32, max_sequences=4)
    adapters = LoadedAdapters({"gpt": Base(loaded, DECODER.fingerprint)})
    first = write_lora(folder / "first", llama(TINY), seed=3)
    loras = {"gpt": {"first": adapters.load("gpt", "first", str(first))}}
    ours, theirs = socket.socketpair()
    theirs.sendall(frame(Ready(cards=[replace(DECODER, vocab_size=400, max_tokens=512)], loras=loras)))
    scheduler = Scheduler({"gpt": lane}, itl_target_s=10.0)
    loop = Loop(theirs, scheduler, runner, Constraints({}, {}), adapters)
    thread = threading.Thread(target=loop.run)
    thread.start()
    link = Link(Stats())
    await link.connect(ours)
    tokenizer = Tokenizer(Vocabulary(backend=byte_level(), chat_template=TEMPLATE))
    engine = Engine(link, {"gpt": tokenizer}, max_requests=8)
    try:
        await engine.load()
        transport = ASGITransport(create_app(engine, lora_folder=folder))
        async with AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, loaded
    finally:
        await engine.close()
        await asyncio.to_thread(thread.join, 10)
        theirs.close()


def tokens_of(response: Response) -> list[int]:
    assert response.status_code == 200, response.text
    return [token["id"] for token in response.json()["details"]["tokens"]]


async def generate(client: AsyncClient, model: str, **parameters: Any) -> list[int]:
    body = {"inputs": "the quick", "model": model, "parameters": GREEDY | parameters}
    return tokens_of(await client.post("/generate", json=body))


async def load(client: AsyncClient, name: str, path: str) -> Response:
    return await client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path})


async def unload(client: AsyncClient, name: str) -> Response:
    return await client.post("/v1/unload_lora_adapter", json={"lora_name": name})


async def test_an_adapter_comes_changes_texts_and_goes(tmp_path: Path) -> None:
    write_lora(tmp_path / "second", llama(TINY), seed=8)
    async with real_server(tmp_path) as (client, _):
        bare, first = await generate(client, "gpt"), await generate(client, "first")
        assert (await load(client, "new", "second")).status_code == 200
        second = await generate(client, "new")
        assert len({tuple(bare), tuple(first), tuple(second)}) == 3
        assert (await unload(client, "new")).status_code == 200
        gone = await client.post("/generate", json={"inputs": "x", "model": "new"})
        assert gone.status_code == 404
        # The same name with other weights: nothing of the former one is found in the cache.
        assert (await load(client, "new", "first")).status_code == 200
        assert await generate(client, "new") == first
        assert await generate(client, "gpt") == bare


async def test_what_is_unloaded_goes_when_its_last_request_has_ended(tmp_path: Path) -> None:
    async with real_server(tmp_path) as (client, loaded):
        layer = loaded.decoder.get_submodule("blocks.0.mlp.down")
        assert isinstance(layer, Linear)
        alone = await generate(client, "first", max_new_tokens=300)
        request = asyncio.create_task(generate(client, "first", max_new_tokens=300))
        while not (await client.get("/metrics")).text.count('triptych_requests_running{model="gpt"} 1.0'):
            await asyncio.sleep(0.01)
        assert (await unload(client, "first")).status_code == 200
        assert (await client.post("/generate", json={"inputs": "x", "model": "first"})).status_code == 404
        assert not request.done()
        assert layer.changes.keys() == {"first"}
        assert await request == alone
        await generate(client, "gpt", max_new_tokens=1)  # behind the word that it can go
        assert layer.changes == {}


async def test_a_broken_adapter_is_refused_and_says_what_is_wrong(tmp_path: Path) -> None:
    write_lora(tmp_path / "wide", llama(replace(TINY, hidden_size=64)))
    (tmp_path / "empty").mkdir()
    wrong = {"wide": "down_proj changes [64, 64], not [32, 64]", "empty": "has no adapter_model.safetensors"}
    async with real_server(tmp_path) as (client, _):
        for path, said in wrong.items():
            response = await load(client, "new", path)
            assert response.status_code == 400
            assert said in response.json()["error"]["message"]
            assert str(tmp_path) not in response.text
        taken = await load(client, "first", "wide")
        assert taken.status_code == 400
        assert taken.json()["error"]["param"] == "lora_name"


async def test_a_receipt_names_the_adapter_and_can_be_verified(tmp_path: Path) -> None:
    async with real_server(tmp_path) as (client, _):
        body = {"prompt": "the quick", "model": "first", "max_tokens": 8, "receipt": True}
        answer = (await client.post("/v1/completions", json=body)).json()
        receipt = answer["choices"][0]["receipt"]
        assert receipt["model"] == "first"
        assert receipt["system_fingerprint"] == answer["system_fingerprint"] != DECODER.fingerprint
        verdict = (await client.post("/v1/verify", json={"receipt": receipt})).json()
        assert verdict["verdict"] == "identical"
        other = (await client.post("/v1/verify", json={"receipt": receipt, "model": "gpt"})).json()
        assert other["verdict"] == "other_fingerprint"
