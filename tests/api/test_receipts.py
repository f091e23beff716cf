"""Receipts: what they record, how they are refused when changed, and what `/v1/verify` says of them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from httpx import AsyncClient, Response
from hypothesis import assume, given
from hypothesis import strategies as st

from models.config import Activation, DecoderConfig, Head, Mlp, Norm
from models.decoder import Decoder
from models.kv_cache import KVCache
from models.positions import Rotary
from server.api.limits import Limits
from server.api.receipt_body import Receipt, SamplingRecord
from server.api.receipts import receipt, seal
from server.api.samplers import SamplerParameters
from server.errors import ContextTooLong, InvalidRequest
from server.execution.generation import DecoderRunner
from server.execution.runner import Runner
from server.request import (
    Chunk,
    Dry,
    Finish,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Mirostat,
    Sampling,
    Stage,
    Terms,
)
from tests.api.conftest import Served
from tests.api.test_whole_server import whole_server
from tests.fakes import DECODER, ENCODER, FakeEngine
from tests.text.vocabularies import byte_level

pytestmark = pytest.mark.anyio

EVERYTHING = GenerateRequest(
    prompt="whatever became these ids",
    sampling=Sampling(
        temperature=0.7,
        top_k=40,
        mirostat=Mirostat(tau=3.0),
        dry=Dry(multiplier=0.8, window=512, breakers=(13, 198)),
        logit_bias=((5, -math.inf), (6, 0.0), (7, 2.5)),
        bad_words=((1, 2), (3,)),
        allowed_tokens=(5, 6, 7),
        order=(Stage.TOP_K, Stage.TEMPERATURE),
        seed=2**64 - 1,
        sample=3,
    ),
    max_new_tokens=9,
    stop=("\n\n", "é"),
    stop_tokens=(11,),
    include_stop=True,
    ignore_eos=True,
    bad_words=("word",),
    dry_breakers=(":",),
    grammar=Grammar(kind=GrammarKind.REGEX, source="[a-z]+"),
    terms=Terms(tenant="whose", cache_salt="salted", timeout_s=7.125),
)
PROMPT_IDS, OUTPUT_IDS = (1, 2), (10, 11, 12)
FINISH = Finish(
    reason=FinishReason.EOS,
    text="Hello!",
    prompt_tokens=2,
    generated_tokens=3,
    seed=2**64 - 1,
    prompt_ids=PROMPT_IDS,
    output_ids=OUTPUT_IDS,
)


def test_a_receipt_says_nothing_about_the_caller() -> None:
    written = json.dumps(receipt(DECODER, EVERYTHING, FINISH))
    assert not any(secret in written for secret in ("whose", "salted", "7.125"))


def test_a_receipt_reads_back_as_the_request() -> None:
    read = Receipt.model_validate(json.loads(json.dumps(receipt(DECODER, EVERYTHING, FINISH))))
    read.check_hash()
    assert read.to_request(DECODER, tenant="another") == replace(
        EVERYTHING, prompt=PROMPT_IDS, model="gpt", terms=Terms(tenant="another")
    )


def test_every_field_of_sampling_is_on_record() -> None:
    assert set(SamplingRecord.model_fields) == {field.name for field in fields(Sampling)}


def test_as_many_as_the_context_holds_is_written_as_a_number() -> None:
    written = receipt(DECODER, replace(EVERYTHING, max_new_tokens=None), FINISH)
    assert written["parameters"]["max_new_tokens"] == DECODER.max_tokens - len(PROMPT_IDS)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


shares = st.floats(0, 1)
positive = st.floats(0, 1, exclude_min=True)
tokens = st.integers(0, 2**31 - 1)
windows = st.integers(-1, 1000)
narrowing = optional(
    top_k=windows,
    top_p=positive,
    min_p=shares,
    typical_p=positive,
    top_n_sigma=st.floats(0, 100),
    epsilon_cutoff=st.floats(0, 1, exclude_max=True),
    eta_cutoff=st.floats(0, 1, exclude_max=True),
    xtc_probability=shares,
    xtc_threshold=shares,
)
mirostat = optional(mirostat=st.just(2), mirostat_tau=positive, mirostat_eta=positive)
others = optional(
    temperature=st.floats(0, 100),
    repetition_penalty=st.floats(0, 100, exclude_min=True),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    repeat_last_n=windows,
    no_repeat_ngram_size=st.integers(0, 100),
    dry_multiplier=st.floats(0, 100),
    dry_base=st.floats(1, 10),
    dry_allowed_length=st.integers(1, 100),
    dry_penalty_last_n=windows,
    logit_bias=st.lists(
        st.tuples(tokens, st.floats(-100, 100) | st.just(False)), unique_by=lambda pair: pair[0]
    ),
    bad_words_ids=st.lists(st.lists(tokens, min_size=1)),
    allowed_token_ids=st.lists(tokens, min_size=1),
    seed=st.integers(0, 2**64 - 1),
)


@given(narrowing | mirostat, others)
def test_what_any_request_samples_by_survives_programs_that_write_1_for_1_0(
    narrowing: dict[str, Any], others: dict[str, Any]
) -> None:
    try:
        sampling = SamplerParameters.model_validate(narrowing | others).to_sampling()
    except InvalidRequest:  # the bias bans all that is allowed
        assume(False)
    written = receipt(DECODER, replace(EVERYTHING, sampling=sampling), FINISH)
    read = Receipt.model_validate(_as_javascript(json.loads(json.dumps(written))))
    read.check_hash()
    assert read.parameters.sampling.to_sampling() == sampling


def _as_javascript(value: Any) -> Any:
    """As JSON.parse and JSON.stringify bring it back; fails on an integer that they would round."""
    if isinstance(value, dict):
        return {key: _as_javascript(inner) for key, inner in reversed(value.items())}
    if isinstance(value, list):
        return [_as_javascript(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    assert isinstance(value, bool | str | float | None) or abs(value) < 2**53
    return value


WRITTEN = receipt(DECODER, EVERYTHING, FINISH)


def changed(path: str, value: object) -> dict[str, Any]:
    """The receipt with another value at `path`; a new key is added."""
    written = copy.deepcopy(WRITTEN)
    inner = written
    *way, last = path.split(".")
    for key in way:
        inner = inner[key]
    inner[last] = value
    return written


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model", "org/bert"),
        ("system_fingerprint", "fp_other"),
        ("prompt_ids", [2, 1]),
        ("output_ids", [10, 11]),
        ("text", "Hello."),
        ("finish_reason", "length"),
        ("hash", "0" * 64),
        ("parameters.max_new_tokens", 10),
        ("parameters.stop", ["\n", "é"]),
        ("parameters.include_stop", False),
        ("parameters.grammar", None),
        ("parameters.grammar.source", "[a-z]*"),
        ("parameters.sampling.temperature", 0.7000000001),
        ("parameters.sampling.seed", "18446744073709551614"),
        ("parameters.sampling.sample", 2),
        ("parameters.sampling.logit_bias", [[5, False], [6, False], [7, 2.5]]),
        ("parameters.sampling.order", ["temperature", "top_k"]),
        ("parameters.sampling.mirostat.tau", 3.5),
        ("parameters.sampling.dry", None),
    ],
)
async def test_a_receipt_changed_by_hand_is_refused(client: AsyncClient, path: str, value: object) -> None:
    response = await client.post("/v1/verify", json={"receipt": changed(path, value)})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "receipt.hash"
    assert "something in it was changed" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nonsense", 1, "unknown field `receipt.nonsense`"),
        ("parameters.sampling.top_z", 1, "unknown field `receipt.parameters.sampling.top_z`"),
        ("version", 1, "`receipt.version` must be 2"),
        ("prompt_ids", [], "`receipt.prompt_ids` cannot be empty"),
        ("prompt_ids", ["1"], "`receipt.prompt_ids` must be a list of token ids"),
        ("output_ids", [1.5], "`receipt.output_ids` must be a list of token ids"),
        ("finish_reason", "bored", "`receipt.finish_reason` must be 'length'"),
        ("parameters", {}, "`receipt.parameters.sampling` is required"),
        ("parameters.max_new_tokens", -1, "`receipt.parameters.max_new_tokens` must be >= 0"),
        ("parameters.stop", "\n", "`receipt.parameters.stop` must be a list of strings"),
        ("parameters.sampling.temperature", -1, "`receipt.parameters.sampling.temperature` must be >= 0"),
        ("parameters.sampling.seed", 5, "`receipt.parameters.sampling.seed` must be a whole number"),
        ("parameters.sampling.seed", str(2**64), "`receipt.parameters.sampling.seed` must be a whole number"),
        ("parameters.sampling.seed", "9" * 5000, "`receipt.parameters.sampling.seed` must be a whole number"),
        ("parameters.sampling.order", ["top_k", "top_k"], "must name each stage once"),
        ("parameters.sampling.order", ["top_x"], "must be a list of sampling stages"),
        ("parameters.sampling.logit_bias", [[5, True]], "pairs of a token id and a number or false"),
        ("parameters.grammar.kind", "poem", "`receipt.parameters.grammar.kind` must be 'json_schema'"),
    ],
)
async def test_what_is_no_receipt_is_refused_by_name(
    client: AsyncClient, path: str, value: object, message: str
) -> None:
    response = await client.post("/v1/verify", json={"receipt": changed(path, value)})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


async def test_a_number_that_is_none_is_refused(client: AsyncClient) -> None:
    body = json.dumps({"receipt": changed("parameters.sampling.presence_penalty", math.nan)})
    response = await client.post("/v1/verify", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "presence_penalty" in response.json()["error"]["message"]


@dataclass(slots=True, kw_only=True)
class Reciter(FakeEngine):
    """Says the tokens 10, 11, 12, unless `says` is something else, to every prompt."""

    says: tuple[int, ...] = OUTPUT_IDS

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self._note(request)
        yield Chunk(tokens=(), finish=recited(request, self.says))


def recited(request: GenerateRequest, says: tuple[int, ...] = OUTPUT_IDS) -> Finish:
    ids = says[: request.max_new_tokens]
    return Finish(
        reason=FinishReason.EOS if ids == says else FinishReason.LENGTH,
        text="".join(f" {id_}" for id_ in ids),
        prompt_tokens=len(PROMPT_IDS),
        generated_tokens=len(ids),
        seed=request.sampling.seed,
        prompt_ids=PROMPT_IDS,
        output_ids=ids,
    )


def written(**changes: Any) -> dict[str, Any]:
    """A receipt of what `Reciter` says, with other values, and sealed as if they were true."""
    content = receipt(DECODER, EVERYTHING, recited(EVERYTHING)) | changes
    del content["hash"]
    return content | {"hash": seal(content)}


async def verify(served: Served, engine: FakeEngine, body: dict[str, Any], **options: Any) -> Response:
    async with served(engine, **options) as client:
        return await client.post("/v1/verify", json=body)


SERVED_BY = {"model": "gpt", "system_fingerprint": "fp_decoder", "batch_invariant": True}


async def test_the_same_text_is_identical(served: Served) -> None:
    engine = Reciter()
    response = await verify(served, engine, {"receipt": written()})
    assert response.json() == {"verdict": "identical", "tokens": 3} | SERVED_BY
    assert engine.asked == [replace(EVERYTHING, prompt=PROMPT_IDS, model="gpt", terms=Terms())]


@pytest.mark.parametrize(
    ("says", "index", "expected", "got"),
    [
        ((10, 99, 12), 1, 11, 99),
        ((99,), 0, 10, 99),
        ((10, 11), 2, 12, None),
        ((10, 11, 12, 13), 3, None, 13),
    ],
)
async def test_the_first_token_that_differs_is_named(
    served: Served, says: tuple[int, ...], index: int, expected: int | None, got: int | None
) -> None:
    response = await verify(served, Reciter(says=says), {"receipt": written()})
    answer = response.json()
    assert (answer["verdict"], answer["index"]) == ("different", index)
    assert (answer["expected"], answer["got"]) == (expected, got)
    assert answer["expected_text"] == " 10 11 12"
    assert answer["got_text"] == "".join(f" {id_}" for id_ in says)


@pytest.mark.parametrize("changes", [{"text": " 10 11 13"}, {"finish_reason": "stop"}])
async def test_a_false_text_or_ending_beside_true_tokens_is_no_match(
    served: Served, changes: dict[str, str]
) -> None:
    answer = (await verify(served, Reciter(), {"receipt": written(**changes)})).json()
    assert (answer["verdict"], answer["index"]) == ("different", None)
    assert answer["expected_text"] == changes.get("text", " 10 11 12")
    assert answer["expected_finish_reason"] == changes.get("finish_reason", "eos")
    assert (answer["got_text"], answer["got_finish_reason"]) == (" 10 11 12", "eos")


async def test_what_a_deadline_cut_is_compared_up_to_there(served: Served) -> None:
    engine = Reciter()
    cut = written(output_ids=[10, 11], text=" 10 11", finish_reason="timeout")
    assert (await verify(served, engine, {"receipt": cut})).json()["verdict"] == "identical"
    (asked,) = engine.asked
    assert isinstance(asked, GenerateRequest)
    assert asked.max_new_tokens == 2
    answer = (await verify(served, Reciter(says=(10, 9, 8)), {"receipt": cut})).json()
    assert (answer["verdict"], answer["index"], answer["got_text"]) == ("different", 1, " 10 9")


async def test_no_tokens_need_no_model(served: Served) -> None:
    engine = Reciter()
    nothing = written(output_ids=[], text="", finish_reason="timeout")
    answer = (await verify(served, engine, {"receipt": nothing})).json()
    assert (answer["verdict"], answer["tokens"], engine.asked) == ("identical", 0, [])


async def test_another_fingerprint_is_not_vouched_for(served: Served) -> None:
    engine = Reciter()
    other = written(system_fingerprint="fp_other")
    answer = (await verify(served, engine, {"receipt": other})).json()
    assert answer.pop("message").startswith("the receipt is of other weights")
    assert answer == {"verdict": "other_fingerprint", "receipt_fingerprint": "fp_other"} | SERVED_BY
    assert engine.asked == []
    forced = (await verify(served, engine, {"receipt": other, "force": True})).json()
    assert (forced["verdict"], forced["system_fingerprint"]) == ("identical", "fp_decoder")


async def test_the_model_may_have_another_name_here(served: Served) -> None:
    elsewhere = written(model="called/otherwise")
    unknown = await verify(served, Reciter(), {"receipt": elsewhere})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "NotFoundError")
    named = await verify(served, Reciter(), {"receipt": elsewhere, "model": "gpt"})
    assert named.json()["verdict"] == "identical"
    encoder = await verify(served, Reciter(), {"receipt": written(), "model": ENCODER.name})
    assert encoder.status_code == 400


@pytest.mark.parametrize(
    ("limits", "message"),
    [(Limits(max_stop_sequences=1), "stop sequences"), (Limits(max_stop_characters=1), "stop sequence has")],
)
async def test_a_receipt_is_held_to_the_limits_of_a_request(
    served: Served, limits: Limits, message: str
) -> None:
    engine = Reciter()
    response = await verify(served, engine, {"receipt": written()}, limits=limits)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith("the receipt cannot be replayed here: ")
    assert message in error["message"]
    assert engine.asked == []


async def test_a_receipt_too_long_for_this_model_is_refused_as_such(served: Served) -> None:
    engine = Reciter(refusal=ContextTooLong(tokens=2, limit=8, new_tokens=9))
    response = await verify(served, engine, {"receipt": written()})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "receipt")
    assert error["message"].startswith("the receipt cannot be replayed here: ")
    assert "must be <= 8" in error["message"]


async def test_banned_tokens_that_the_model_does_not_have_are_refused(served: Served) -> None:
    parameters = copy.deepcopy(WRITTEN["parameters"])
    parameters["sampling"]["bad_words"] = [[1, DECODER.vocab_size]]
    response = await verify(served, Reciter(), {"receipt": written(parameters=parameters)})
    assert response.status_code == 400
    assert "bad_words` token ids must be between 0 and 999" in response.json()["error"]["message"]


TINY = DecoderConfig(
    architecture="llama",
    vocab_size=byte_level().get_vocab_size(),
    hidden_size=32,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=16,
    mlp_size=64,
    context_length=64,
    norm=Norm.RMS,
    norm_eps=1e-5,
    mlp=Mlp.GATED,
    activation=Activation.SILU,
    positions=Rotary(),
    head=Head.TIED,
)


def tiny_decoder() -> Runner:
    """A real decoder of random weights, in the cache that the whole server's blocks stand for."""
    torch.manual_seed(0)
    decoder = Decoder(TINY).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        parameter.mul_(0.3)  # less sure of itself, so that the seed decides
    cpu = torch.device("cpu")
    cache = KVCache(TINY, num_blocks=64, block_size=4, device=cpu, dtype=torch.float32)
    return Runner({DECODER.name: DecoderRunner(decoder, cache, cpu)})


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take longer over a tiny model than one alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ROUTES: dict[str, dict[str, Any]] = {
    "/generate": {
        "inputs": "the fox",
        "parameters": {"do_sample": True, "seed": 7, "max_new_tokens": 24, "receipt": True},
    },
    "/v1/completions": {"prompt": "the fox", "seed": 7, "max_tokens": 24, "receipt": True},
}


async def receipt_of(client: AsyncClient, path: str) -> dict[str, Any]:
    answer = (await client.post(path, json=ROUTES[path])).json()
    found: dict[str, Any] = (answer["choices"][0] if "choices" in answer else answer)["receipt"]
    return found


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("path", ROUTES)
async def test_a_real_decoder_says_the_same_again_and_another_seed_something_else(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async with whole_server() as (client, speaker):
        monkeypatch.setattr(speaker, "run", tiny_decoder().run)
        honest = await receipt_of(client, path)
        same = await client.post("/v1/verify", json={"receipt": honest})
        forged = copy.deepcopy(honest)
        del forged["hash"]
        forged["parameters"]["sampling"]["seed"] = "8"
        other = await client.post("/v1/verify", json={"receipt": forged | {"hash": seal(forged)}})
    assert same.json()["verdict"] == "identical"
    assert same.json()["tokens"] == len(honest["output_ids"]) > 0
    assert other.json()["verdict"] == "different"
