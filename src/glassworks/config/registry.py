"""The file system is the registry: what users name in YAML is a folder of that name.

    source: folder          sources/folder/{settings,source}.py
    task: captioning        tasks/captioning/{settings,task}.py
    model: minilm           data/weights/wheels/minilm/{settings,convert}.py

`settings.py` imports nothing heavy. It is read with the configuration; the code beside it is imported by the stage that runs it. Nothing else in the
project reaches a module by a computed name.
"""

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar

from pydantic import Discriminator, Tag

from glassworks.config.base import Settings

ROOT = Path(__file__).resolve().parents[1]
CODE = {
    "sources": "source",
    "tasks": "task",
    "evaluation": "score",
    "encoders": "encoder",
    "data/weights/wheels": "convert",
}
"""The file beside settings.py that holds the code, for each area."""
S = TypeVar("S", bound=Settings)


@cache
def names(area: str) -> list[str]:
    """Names that YAML may use, sorted: the folders of an area that have a settings.py."""
    return sorted(path.parent.name for path in (ROOT / area).glob("*/settings.py"))


def modules(area: str, name: str) -> tuple[str, str]:
    """Names of the two modules of a folder, relative to the package: settings and code."""
    package = f"{area.replace('/', '.')}.{name}"
    return f"{package}.settings", f"{package}.{CODE[area]}"


def settings(area: str, name: str) -> ModuleType:
    """The settings module of a folder."""
    return importlib.import_module(f"glassworks.{modules(area, name)[0]}")


def code(area: str, name: str) -> ModuleType:
    """The code module of a folder."""
    return importlib.import_module(f"glassworks.{modules(area, name)[1]}")


def settings_class(area: str, name: str, base: type[S]) -> type[S]:
    """The one subclass of `base` that the settings module of a folder defines."""
    module = settings(area, name)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must define one subclass of {base.__name__}, not {len(found)}"
    return found[0]


def union(area: str, base: type[Settings], key: str) -> Any:
    """The settings of every folder of an area as one pydantic type, told apart by the value of `key`."""
    branches = tuple(Annotated[settings_class(area, name, base), Tag(f"{key}={name}")] for name in names(area))
    return Annotated[tagged_union(branches), Discriminator(tag_by(key))]


def tagged_union(branches: tuple[Any, ...]) -> Any:
    """The union of types that are known only when this runs."""
    joined = branches[0]
    for branch in branches[1:]:
        joined = joined | branch
    return joined


def tag_by(key: str) -> Any:
    """The function by which pydantic finds the branch of a union: `KEY=VALUE`, from a mapping or a model."""

    def tag(value: Any) -> str | None:
        found = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return None if found is None else f"{key}={found}"

    tag.__name__ = key  # for the error when the key is missing
    return tag
