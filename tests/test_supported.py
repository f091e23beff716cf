"""The table of supported families is complete and true, on the command line and in the README."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from models.catalogue import CATALOGUE, Kind
from models.config import Config, DecoderConfig, EncoderConfig, Mlp, Seq2SeqConfig, StackConfig
from models.families.registry import FAMILIES, read
from server.cli import main
from server.shell import supported
from tests.models.oracles import SUBJECTS

README = Path(__file__).parents[1] / "models" / "README.md"
KINDS = {DecoderConfig: Kind.DECODER, EncoderConfig: Kind.ENCODER, Seq2SeqConfig: Kind.SEQ2SEQ}


def configs(family: str) -> list[Config]:
    """What the tests of parity make of the family, each optional field of which is used in some of them."""
    return [read(subject.raw)[1] for subject in SUBJECTS[family]]


def stacks(config: Config) -> tuple[StackConfig, ...]:
    return (config.encoder, config.decoder) if isinstance(config, Seq2SeqConfig) else (config,)


def choices(configs: Iterable[Config]) -> str:
    """What these configurations are made of, between them."""
    found = [stack for config in configs for stack in stacks(config)]
    parts = [
        _listed(stack.norm.value for stack in found),
        _listed(name for stack in found for name in _positions(stack)),
        _listed(stack.residual.value for stack in found),
        _listed("gated" if stack.mlp is Mlp.GATED else "plain" for stack in found) + " MLP",
        *sorted({extra for stack in found for extra in _extras(stack)}),
    ]
    return "; ".join(parts)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.replace("_", " ") for name in names}))


def _positions(stack: StackConfig) -> Iterator[str]:
    assert isinstance(stack, DecoderConfig | EncoderConfig)
    for one in (stack.positions, getattr(stack, "relative", None)):
        if one is not None:
            yield type(one).__name__.lower()


def _extras(stack: StackConfig) -> Iterator[str]:
    if isinstance(stack, DecoderConfig) and stack.kv_heads < stack.heads:
        yield "grouped queries"
    if isinstance(stack, DecoderConfig) and stack.query_key_norm:
        yield "query-key norm"
    if isinstance(stack, DecoderConfig) and (stack.score_cap or stack.logit_cap):
        yield "soft caps"
    if isinstance(stack, EncoderConfig) and stack.sharing:
        yield "shared layers"
    if stack.local:
        yield "windows"


def test_every_family_of_the_registry_is_in_the_catalogue_and_no_other() -> None:
    assert CATALOGUE.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_catalogue_says_of_a_family_is_what_its_models_are_made_of(family: str) -> None:
    found = configs(family)
    assert {CATALOGUE[family].kind} == {KINDS[type(config)] for config in found}
    assert CATALOGUE[family].choices == choices(found)


def test_the_readme_has_the_table() -> None:
    written = re.search(r"<!-- supported -->\n(.*?)\n<!-- /supported -->", README.read_text(), re.DOTALL)
    assert written is not None
    assert written[1].strip() == supported.markdown(), "paste `triptych models --supported markdown`"


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--supported"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["family", "model_type", "kind"]
    assert len(rows) == len(FAMILIES)
    assert main(["models", "--supported", "markdown"]) == 0
    assert capsys.readouterr().out == supported.markdown() + "\n"
