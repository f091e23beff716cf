"""A family says how its files are read and what tensors are called; what is computed belongs to blocks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from statistics import median

import pytest

from models.families.naming import Family
from models.families.registry import FAMILIES

FOLDER = Path(__file__).parents[2] / "models" / "families"
FILES = sorted(FOLDER.glob("*.py"))
# What all families share: the vocabulary, how a file is read, who there is.
MACHINERY = {"__init__", "naming", "neutral", "reading", "registry", "rotary", "windows", "gguf"}
OWN = [file for file in FILES if file.stem not in MACHINERY]
VOCABULARY = ("__future__", "collections.abc", "dataclasses", "math", "typing")
MODELS = ("models.config", "models.errors", "models.families", "models.positions")
# Where arithmetic would hide; a reader of fields needs none of them.
CODE = (ast.ClassDef, ast.AsyncFunctionDef, ast.For, ast.While, ast.With, ast.Try)
MOST_STATEMENTS = 10  # in a function
MOST_LINES = 90
MEDIAN_LINES = 60


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""


def statements(function: ast.FunctionDef) -> int:
    documented = ast.get_docstring(function) is not None
    return sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1 - documented


def code(source: str) -> list[str]:
    """What is in it that a family may not have."""
    module = ast.parse(source)
    foreign = [name for name in imported(module) if not name.startswith((*VOCABULARY, *MODELS))]
    hidden = [type(node).__name__ for node in ast.walk(module) if _is_code(node)]
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    long = [one.name for one in functions if statements(one) > MOST_STATEMENTS]
    return foreign + hidden + long


def _is_code(node: ast.AST) -> bool:
    match node:
        case ast.Lambda(args=ast.arguments(args=[_]), body=ast.Compare()):
            return False  # a question about a layer's number
        case ast.Lambda() | ast.BinOp(op=ast.MatMult()):
            return True
    return isinstance(node, CODE)


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.stem)
def test_a_family_is_data(file: Path) -> None:
    assert code(file.read_text(encoding="utf-8")) == []
    assert lines(file) <= MOST_LINES


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch", "torch"),
        ("from torch.nn import functional", "torch.nn"),
        ("from models.layers.norm import build_norm", "models.layers.norm"),
        ("class Attention: ...", "ClassDef"),
        ("scale = lambda q, k: q * k", "Lambda"),
        ("y = q @ k", "BinOp"),
        ("def config(raw):\n" + "    a = 1\n" * (MOST_STATEMENTS + 1), "config"),
    ],
)
def test_code_in_a_family_is_found(source: str, found: str) -> None:
    assert code(source) == [found]


def test_half_of_the_files_have_at_most_sixty_lines() -> None:
    assert median(map(lines, FILES)) <= MEDIAN_LINES


def test_every_family_that_is_described_can_be_loaded() -> None:
    modules = [import_module(f"models.families.{file.stem}") for file in OWN]
    described = {id(one) for module in modules for one in vars(module).values() if isinstance(one, Family)}
    assert described == {id(family) for family in FAMILIES.values()}
