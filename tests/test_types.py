"""Types at the seams: `Any` in a public signature would switch the type checker off for every caller."""

import ast
from collections.abc import Iterator

import pytest

from .conftest import REPOSITORY

PACKAGE = REPOSITORY / "src/glassworks"
FILES = sorted(file for area in ("tasks", "training") for file in (PACKAGE / area).rglob("*.py"))


def annotations(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """The annotations of public functions, methods and attributes, by name; `carry` is opaque to its callers."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from annotations(node.body)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name.startswith("__")):
            given = node.args
            several = [one for one in (given.vararg, given.kwarg) if one]
            for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs, *several]:
                if argument.annotation and argument.arg != "carry":
                    yield f"{node.name}({argument.arg})", argument.annotation
            if node.returns:
                yield node.name, node.returns


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_no_any_in_a_public_signature_of_tasks_or_training(file):
    found = [name for name, annotation in annotations(ast.parse(file.read_text()).body) if "Any" in names(annotation)]
    assert not found


def names(annotation: ast.expr) -> set[str]:
    """The names in an annotation, which may be a string."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    return {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}


def test_any_would_be_found():
    body = ast.parse("class A:\n    x: dict[str, Any]\n    def f(self, y: 'list[Any]', carry: Any) -> int: ...\n").body
    assert [name for name, annotation in annotations(body) if "Any" in names(annotation)] == ["x", "f(y)"]
