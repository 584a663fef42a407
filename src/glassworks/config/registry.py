"""The file system is the registry: a name in YAML refers to a folder of that name.

    source: folder          sources/folder/{settings,source}.py
    task: captioning        tasks/captioning/{settings,task}.py
    model: minilm           data/weights/wheels/minilm/{settings,convert}.py

`settings.py` must import nothing heavy: it is imported with the configuration. The code beside it is imported only by the stage that runs it. No
other module of the project imports by a computed name.
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
"""Module that holds the code beside settings.py, for each area."""
S = TypeVar("S", bound=Settings)


@cache
def names(area: str) -> list[str]:
    """Valid names in YAML, sorted: the folders of an area that contain settings.py."""
    return sorted(path.parent.name for path in (ROOT / area).glob("*/settings.py"))


def modules(area: str, name: str) -> tuple[str, str]:
    """The settings module and the code module of a folder, relative to the package."""
    package = f"{area.replace('/', '.')}.{name}"
    return f"{package}.settings", f"{package}.{CODE[area]}"


def settings(area: str, name: str) -> ModuleType:
    """The imported settings module of a folder."""
    return importlib.import_module(f"glassworks.{modules(area, name)[0]}")


def code(area: str, name: str) -> ModuleType:
    """The imported code module of a folder."""
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
    """A discriminated union of the settings classes of an area. The value of `key` selects the class."""
    branches = tuple(Annotated[settings_class(area, name, base), Tag(f"{key}={name}")] for name in names(area))
    return Annotated[tagged_union(branches), Discriminator(tag_by(key))]


def tagged_union(branches: tuple[Any, ...]) -> Any:
    """The union of types that are known only at run time."""
    joined = branches[0]
    for branch in branches[1:]:
        joined = joined | branch
    return joined


def tag_by(key: str) -> Any:
    """A pydantic discriminator that returns the tag `KEY=VALUE` of a mapping or a model."""

    def tag(value: Any) -> str | None:
        found = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return None if found is None else f"{key}={found}"

    tag.__name__ = key  # pydantic's error for a missing key shows this name
    return tag
