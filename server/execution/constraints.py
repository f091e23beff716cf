"""Holds sequences to their grammars: compiled beside the loop, then followed by the runner of their model."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from server.execution.generation import DecoderRunner
from server.execution.grammars.compiler import Compiler
from server.execution.grammars.matcher import CompiledGrammar
from server.request import Grammar


class Constraints:
    """Of every decoder on the device, by name."""

    def __init__(self, runners: Mapping[str, DecoderRunner], compilers: Mapping[str, Compiler]) -> None:
        self._runners = runners
        self._compilers = compilers

    def compile(self, model: str, grammar: Grammar) -> Future[CompiledGrammar]:
        """Shared by all who ask for an equal one. It or this raises GrammarError; this also Overloaded."""
        return self._compilers[model].submit(grammar)

    def hold(self, model: str, id_: int, compiled: CompiledGrammar, stop_tokens: frozenset[int]) -> None:
        """From now on the sequence says what the grammar allows, and ends where that may end."""
        self._runners[model].constrain(id_, compiled.matcher(stop_tokens))

    def forget(self, model: str, id_: int) -> None:
        self._runners[model].forget(id_)
