"""The lesson of `models/README.md` is true: its snippets run, and the code that it points to is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "models" / "README.md"
LESSON = README.read_text(encoding="utf-8").split("## The lesson, runnable\n")[1].split("\n## ")[0]
# [`name`](file): `line` or [`name`](file)
POINTER = re.compile(r"\[`([\w.]+)`\]\(([\w./]+\.py)\)(?::\s+`([^`]+)`)?")
SNIPPET = re.compile(r"^### (.+?)\n.*?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def definition(source: str, name: str) -> str:
    """The source of a function, class, method or variable. LookupError where there is none of that name."""
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        found = [one for one in ast.iter_child_nodes(node) if part in _names(one)]
        if not found:
            raise LookupError(name)
        node = found[0]
    return ast.get_source_segment(source, node) or ""


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def unspaced(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_every_part_of_the_lesson_has_a_snippet_and_every_snippet_compares() -> None:
    snippets = SNIPPET.findall(LESSON)
    assert [title for title, _ in snippets] == re.findall(r"^### (.+)", LESSON, re.MULTILINE)
    assert all("assert close(" in snippet for _, snippet in snippets)


def test_the_snippets_run_in_order() -> None:
    names: dict[str, object] = {}
    for title, snippet in SNIPPET.findall(LESSON):
        exec(compile(snippet, f"{README.name}, {title}", "exec"), names)


@pytest.mark.parametrize(("name", "file", "line"), POINTER.findall(LESSON))
def test_what_the_lesson_points_to_is_there(name: str, file: str, line: str) -> None:
    source = (README.parent / file).read_text(encoding="utf-8")
    assert unspaced(line) in unspaced(definition(source, name))


def test_a_pointer_to_nothing_is_found() -> None:
    with pytest.raises(LookupError):
        definition("class Norm:\n    def forward(self): ...\n", "Norm.backward")
