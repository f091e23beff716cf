"""Every sampler through the wire: by each of its names, within its bounds, and never ignored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from httpx import AsyncClient

from server.api.generate_body import GenerateParameters
from server.api.samplers import StageName
from server.request import Dry, GenerateRequest, Mirostat, Sampling, Stage
from tests.fakes import FakeEngine

pytestmark = pytest.mark.anyio

SEEDED = Sampling(seed=7)
"""What `{"do_sample": true, "seed": 7}` asks for."""


async def asked(client: AsyncClient, engine: FakeEngine, parameters: dict[str, Any]) -> GenerateRequest:
    body = {"inputs": "hi", "parameters": {"do_sample": True, "seed": 7} | parameters}
    response = await client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    request = engine.asked[-1]
    assert isinstance(request, GenerateRequest)
    return request


async def refusal(client: AsyncClient, parameters: dict[str, Any]) -> str:
    response = await client.post("/generate", json={"inputs": "hi", "parameters": parameters})
    assert response.status_code == 422, response.text
    message = response.json()["error"]
    assert isinstance(message, str)
    return message.removeprefix("Input validation error: ")


@pytest.mark.parametrize(
    ("parameters", "changes"),
    [
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"dynatemp_range": 0.5, "dynatemp_exponent": 2}, {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"min_p": 0.1}, {"min_p": 0.1}),
        ({"typical_p": 0.8}, {"typical_p": 0.8}),
        ({"top_n_sigma": 1.5}, {"top_n_sigma": 1.5}),
        ({"epsilon_cutoff": 0.001}, {"epsilon_cutoff": 0.001}),
        ({"eta_cutoff": 0.002}, {"eta_cutoff": 0.002}),
        ({"xtc_probability": 0.5, "xtc_threshold": 0.2}, {"xtc_probability": 0.5, "xtc_threshold": 0.2}),
        ({"mirostat": 2}, {"mirostat": Mirostat()}),
        (
            {"mirostat": 2, "mirostat_tau": 3, "mirostat_eta": 0.2},
            {"mirostat": Mirostat(tau=3.0, eta=0.2)},
        ),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"presence_penalty": -0.5}, {"presence_penalty": -0.5}),
        ({"frequency_penalty": 2}, {"frequency_penalty": 2.0}),
        ({"presence_penalty": 1, "repeat_last_n": 64}, {"presence_penalty": 1.0, "penalty_window": 64}),
        ({"presence_penalty": 1, "repeat_last_n": -1}, {"presence_penalty": 1.0}),
        ({"presence_penalty": 1, "repeat_last_n": 0}, {}),
        ({"no_repeat_ngram_size": 3}, {"no_repeat_ngram": 3}),
        ({"dry_multiplier": 0.8}, {"dry": Dry(multiplier=0.8)}),
        (
            {
                "dry_multiplier": 0.8,
                "dry_base": 2,
                "dry_allowed_length": 4,
                "dry_penalty_last_n": 128,
            },
            {"dry": Dry(multiplier=0.8, base=2.0, allowed_length=4, window=128)},
        ),
        ({"dry_multiplier": 0.8, "dry_penalty_last_n": 0}, {}),
        ({"logit_bias": {"5": -100, "6": 0}}, {"logit_bias": ((5, -100.0), (6, 0.0))}),
        ({"logit_bias": {"5": False}}, {"logit_bias": ((5, float("-inf")),)}),
        ({"logit_bias": [[5, 1.5], [6, False]]}, {"logit_bias": ((5, 1.5), (6, float("-inf")))}),
        ({"bad_words_ids": [[5], [6, 7]]}, {"bad_words": ((5,), (6, 7))}),
        ({"allowed_token_ids": [9, 8, 9]}, {"allowed_tokens": (9, 8)}),
        ({"min_tokens": 2}, {"min_new_tokens": 2}),
    ],
)
async def test_every_sampler_arrives(
    client: AsyncClient, engine: FakeEngine, parameters: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert (await asked(client, engine, parameters)).sampling == replace(SEEDED, **changes)


@pytest.mark.parametrize(
    ("name", "canonical", "value"),
    [
        ("repeat_penalty", "repetition_penalty", 1.1),
        ("typ_p", "typical_p", 0.7),
        ("sampling_seed", "seed", 5),
        ("min_new_tokens", "min_tokens", 2),
        ("no_repeat_ngram", "no_repeat_ngram_size", 2),
        ("samplers", "sampler_order", ["top_k", "temperature"]),
        ("stop_strings", "stop", ["x"]),
        ("no_stop_trim", "include_stop_str_in_output", True),
        ("truncate_prompt_tokens", "truncate", 4),
    ],
)
async def test_another_name_means_the_same(
    client: AsyncClient, engine: FakeEngine, name: str, canonical: str, value: object
) -> None:
    seeded = {} if canonical == "seed" else {"seed": 7}
    bodies = [{"inputs": "hi", "parameters": {each: value} | seeded} for each in (name, canonical)]
    for body in bodies:
        assert (await client.post("/generate", json=body)).status_code == 200
    assert engine.asked[0] == engine.asked[1]
    both = await refusal(client, {name: value, canonical: value})
    assert both == f"`parameters.{name}` is another name of a parameter that is given too (`{canonical}`)"


NEUTRAL = {
    "temperature": 1.0,
    "dynatemp_range": 0,
    "dynatemp_exponent": 1.0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "top_n_sigma": -1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "xtc_probability": 0,
    "xtc_threshold": 0.1,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "repetition_penalty": 1.0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repeat_last_n": -1,
    "no_repeat_ngram_size": 0,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": -1,
    "dry_sequence_breakers": ["\n"],
    "logit_bias": {},
    "bad_words": [],
    "bad_words_ids": [],
    "min_tokens": 0,
    "stop": [],
    "stop_token_ids": [],
}


async def test_what_asks_for_nothing_changes_nothing(client: AsyncClient, engine: FakeEngine) -> None:
    """Chat programs send every parameter they know, switched off or not."""
    plain = await asked(client, engine, {})
    assert await asked(client, engine, NEUTRAL) == plain
    assert await asked(client, engine, dict.fromkeys(NEUTRAL)) == plain
    assert plain.sampling == SEEDED


async def test_zero_and_minus_one_keep_all_tokens_where_the_dialect_says_so(
    client: AsyncClient, engine: FakeEngine
) -> None:
    for off in (0, -1):
        body = {"prompt": "hi", "top_k": off, "top_n_sigma": off, "seed": 7}
        assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert all(isinstance(each, GenerateRequest) and each.sampling == SEEDED for each in engine.asked)
    assert "strictly positive" in await refusal(client, {"top_k": 0})


async def test_strings_are_left_to_whoever_has_the_tokenizer(client: AsyncClient, engine: FakeEngine) -> None:
    parameters = {"bad_words": ["foo", "bar"], "dry_multiplier": 1, "dry_sequence_breakers": ["\n", "#"]}
    request = await asked(client, engine, parameters)
    assert request.bad_words == ("foo", "bar")
    assert request.dry_breakers == ("\n", "#")


async def test_dry_breaks_where_llama_cpp_does_unless_told_otherwise(
    client: AsyncClient, engine: FakeEngine
) -> None:
    assert (await asked(client, engine, {"dry_multiplier": 1})).dry_breakers == ("\n", ":", '"', "*")
    none = await asked(client, engine, {"dry_multiplier": 1, "dry_sequence_breakers": []})
    assert none.dry_breakers == ()
    assert (await asked(client, engine, {})).dry_breakers == ()


async def test_samplers_apply_in_the_order_given(client: AsyncClient, engine: FakeEngine) -> None:
    request = await asked(client, engine, {"sampler_order": ["top_k", "typ_p", "temperature"], "top_k": 3})
    assert request.sampling.order == (Stage.TOP_K, Stage.TYPICAL_P, Stage.TEMPERATURE)
    assert (await asked(client, engine, {})).sampling.order == tuple(Stage)
    assert (await asked(client, engine, {"sampler_order": []})).sampling.order == ()


def test_every_stage_has_a_name_in_the_order() -> None:
    assert set(get_args(StageName)) - {"typ_p"} == {stage.value for stage in Stage}


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0.7},
        {"dynatemp_range": 0.5},
        {"top_n_sigma": 1},
        {"top_k": 3},
        {"typical_p": 0.9},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"epsilon_cutoff": 0.1},
        {"eta_cutoff": 0.1},
        {"xtc_probability": 0.5},
        {"repetition_penalty": 1.1},
        {"presence_penalty": 1},
        {"frequency_penalty": 1},
        {"dry_multiplier": 1},
    ],
)
async def test_a_parameter_whose_stage_the_order_leaves_out_is_refused(
    client: AsyncClient, engine: FakeEngine, parameters: dict[str, Any]
) -> None:
    (name,) = parameters
    message = await refusal(client, parameters | {"samplers": []})
    assert message.startswith(f"`{name}` is given, but `sampler_order` leaves out ")
    stage = message.rpartition(" ")[2]
    await asked(client, engine, parameters | {"samplers": [stage]})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mirostat": 1}, "`parameters.mirostat` 1 is not there; version 2 is: give 2, or 0 for none"),
        ({"mirostat": 3}, "`parameters.mirostat` must be <= 2"),
        ({"mirostat": 2, "top_p": 0.9}, "`top_p` and `mirostat` exclude each other"),
        ({"mirostat": 2, "top_k": 9}, "`top_k` and `mirostat` exclude each other"),
        ({"mirostat": 2, "xtc_probability": 0.1}, "`xtc_probability` and `mirostat` exclude each other"),
        ({"mirostat_tau": 0}, "`parameters.mirostat_tau` must be strictly positive"),
        ({"top_n_sigma": -0.5}, "`parameters.top_n_sigma` must be strictly positive, or -1 or 0 for none"),
        ({"epsilon_cutoff": 1}, "`parameters.epsilon_cutoff` must be < 1"),
        ({"xtc_probability": 1.1}, "`parameters.xtc_probability` must be <= 1"),
        ({"repeat_last_n": -2}, "`parameters.repeat_last_n` must be >= -1"),
        ({"dry_base": 0.5}, "`parameters.dry_base` must be >= 1"),
        ({"dry_allowed_length": 0}, "`parameters.dry_allowed_length` must be strictly positive"),
        ({"dry_sequence_breakers": "x"}, "`parameters.dry_sequence_breakers` must be a valid list"),
        ({"dry_sequence_breakers": [""]}, "`parameters.dry_sequence_breakers.0` cannot be empty"),
        ({"logit_bias": {"x": 1}}, "`parameters.logit_bias` must be an object of token ids"),
        ({"logit_bias": {"5": True}}, "`parameters.logit_bias` must be an object of token ids"),
        ({"logit_bias": {"5": 101}}, "`parameters.logit_bias` must be an object of token ids"),
        ({"logit_bias": [5, 1]}, "`parameters.logit_bias` must be an object of token ids"),
        ({"logit_bias": [[5, 1], [5, 2]]}, "`logit_bias` names a token twice"),
        ({"logit_bias": {"5": 1, "05": 2}}, "`logit_bias` names a token twice"),
        ({"bad_words": [""]}, "`parameters.bad_words.0` cannot be empty"),
        ({"bad_words": ["x"] * 129}, "`parameters.bad_words` must have at most 128 items"),
        ({"bad_words_ids": [[1] * 257]}, "`parameters.bad_words_ids.0` must have at most 256 items"),
        ({"bad_words_ids": [[]]}, "`parameters.bad_words_ids.0` cannot be empty"),
        ({"bad_words_ids": [[1000]]}, "`bad_words_ids` token ids must be between 0 and 999"),
        ({"allowed_token_ids": []}, "`parameters.allowed_token_ids` cannot be empty"),
        ({"allowed_token_ids": [-1]}, "`parameters.allowed_token_ids.0` must be >= 0"),
        (
            {"allowed_token_ids": [5], "logit_bias": {"5": False}},
            "`logit_bias` bans every token of `allowed_token_ids`",
        ),
        ({"samplers": ["top_k", "top_h"]}, "`parameters.samplers.1` must be 'penalties', 'dry', "),
        ({"samplers": ["top_k"] * 12}, "`parameters.samplers` must have at most 11 items"),
        ({"samplers": "kp"}, "`parameters.samplers` must be a valid list"),
        ({"samplers": ["typ_p", "typical_p"]}, "`sampler_order` lists typical_p twice"),
        ({"min_tokens": 5, "max_new_tokens": 4}, "`min_tokens` must be <= `max_new_tokens`. Given: 5 and 4"),
        ({"min_tokens": 64}, "`min_tokens` must be less than 64 for this model. Given: 64"),
        ({"stop_token_ids": [1.5]}, "`parameters.stop_token_ids.0` must be a valid integer"),
        ({"timeout": 0}, "`parameters.timeout` must be strictly positive"),
        ({"timeout": 1e6}, "`parameters.timeout` must be <= 86400"),
        ({"priority": 0.5}, "`parameters.priority` must be a valid integer"),
        ({"cache_salt": ""}, "`parameters.cache_salt` cannot be empty"),
    ],
)
async def test_what_cannot_mean_anything_is_refused_by_name(
    client: AsyncClient, engine: FakeEngine, parameters: dict[str, Any], message: str
) -> None:
    assert (await refusal(client, parameters)).startswith(message)
    assert not engine.asked


async def test_a_moving_temperature_needs_one_to_move(client: AsyncClient, engine: FakeEngine) -> None:
    body = {"prompt": "hi", "temperature": 0, "dynatemp_range": 0.5}
    response = await client.post("/v1/completions", json=body)
    assert response.json()["error"]["message"] == "`dynatemp_range` needs a `temperature` above 0"
    assert not engine.asked


async def test_temperature_zero_is_greedy_whatever_would_narrow_the_choice(
    client: AsyncClient, engine: FakeEngine
) -> None:
    body = {"prompt": "hi", "temperature": 0, "top_p": 0.9, "xtc_probability": 0.5, "mirostat": 0}
    assert (await client.post("/v1/completions", json=body)).status_code == 200
    request = engine.asked[-1]
    assert isinstance(request, GenerateRequest)
    assert request.sampling.greedy


async def test_where_a_text_ends_and_how_it_stands_beside_others(
    client: AsyncClient, engine: FakeEngine
) -> None:
    parameters = {
        "stop": ["END"],
        "stop_token_ids": [500],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "priority": -3,
        "timeout": 2.5,
        "cache_salt": "mine",
    }
    request = await asked(client, engine, parameters)
    assert (request.stop, request.stop_tokens) == (("END",), (500,))
    assert request.include_stop
    assert request.ignore_eos
    assert (request.terms.priority, request.terms.timeout_s, request.terms.cache_salt) == (-3, 2.5, "mine")


NASTY: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    0.5,
    3,
    10**30,
    -1e308,
    "",
    "x",
    "\x00",
    [],
    [None],
    [[]],
    [[5]],
    {},
    {"5": []},
]


@pytest.mark.parametrize("name", sorted(GenerateParameters.model_json_schema()["properties"]))
async def test_no_value_breaks_a_parameter_and_every_refusal_names_it(client: AsyncClient, name: str) -> None:
    refusals = (422, 404) if name == "adapter_id" else (422,)  # no adapter of that name is loaded
    for value in NASTY:
        response = await client.post("/generate", json={"inputs": "hi", "parameters": {name: value}})
        assert response.status_code in (200, *refusals), (value, response.text)
        assert response.status_code == 200 or name in response.json()["error"], (value, response.text)
