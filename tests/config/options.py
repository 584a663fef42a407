"""Every key of the YAML files, from the settings classes, and other values of each."""

import copy
import itertools
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

REMOVED = object()
"""In place of a value: the key is not written."""
VALUE = object()
"""In place of a value: the value under test."""
Config = dict[str, Any]
Path = tuple[str | int, ...]
Names = Mapping[str, list[str]]
"""Names to refer to, by key."""
Table = Mapping[str, Mapping[str, Any]]
"""Values of other keys, by a pattern of labels and a key path. A path that begins with dots begins at the section of the key, or further out."""
TEXTS = ("some", "other", "a" * 40, "b" * 40, "a" * 64, "b" * 64, ";", "|")
"""Values of texts that name nothing. Some keep to the patterns of digests and of single characters."""


@dataclass(frozen=True)
class Option:
    """A key at one place of the YAML files."""

    label: str
    """The key path, with the tag of a union in place of a name: `datasets.<folder>.columns.file`."""
    path: Path
    """The path in a configuration: `("params", "datasets", "x", "columns", "file")`."""
    owner: type[BaseModel]
    name: str
    """The field of `owner`."""
    opened: tuple[tuple[Path, type[BaseModel]], ...]
    """The sections around the key, the outermost first: paths and classes."""

    @property
    def field(self) -> FieldInfo:
        return self.owner.model_fields[self.name]


def options(model: type[BaseModel], path: Path, label: str = "", opened: Any = ()) -> Iterator[Option]:
    """The keys of a settings class and of all sections in it, but those that only hold sections or have one value."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        inner, place = f"{label}.{key}".removeprefix("."), (*path, key)
        if not _is_section(field.annotation):
            yield Option(inner, place, model, name, opened)
        found = list(_sections(field.annotation))
        for section, step in found:
            below = f"{inner}.<{_tag(section)}>" if len({one for one, _ in found}) > 1 else inner
            there = (*place, *step)
            yield from options(section, there, below, (*opened, (there, section)))


def _sections(annotation: Any) -> Iterator[tuple[type[BaseModel], Path]]:
    """The settings classes of an annotation, and the way to one of their values: a name in a mapping, a number in a list."""
    annotation = _resolved(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ()
        return
    step: Path = {dict: ("x",), list: (0,)}.get(get_origin(annotation), ())
    for argument in get_args(annotation):
        for section, further in _sections(argument):
            yield section, (*step, *further)


def _is_section(annotation: Any) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return len(arguments) == 1
    if origin is dict:
        return _is_section(arguments[1])
    if origin is Annotated:
        return _is_section(arguments[0])
    if origin in (list, Union, types.UnionType):
        return all(_is_section(argument) for argument in arguments)
    annotation = _resolved(annotation)
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _resolved(annotation: Any) -> Any:
    """The default of a type variable."""
    return annotation.__default__ if isinstance(annotation, TypeVar) else annotation


def _tag(section: type[BaseModel]) -> str:
    """A word for a class of a union: the one value of its first key with a single value, or its first key."""
    for field in section.model_fields.values():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return str(get_args(field.annotation)[0])
    return next(iter(section.model_fields))


def minimal(model: type[BaseModel], names: Names) -> Config:
    """The required keys of a section and those that tell it from others, each with the first value of its type."""
    found = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        if field.is_required() or (get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1):
            values = other_values(key, field.annotation, None, names)
            found[key] = next(value for value in values if fits(model, name, value))
    return found


@cache
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    field = model.model_fields[name]
    return TypeAdapter(Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation)


def fits(model: type[BaseModel], name: str, value: Any) -> bool:
    """Whether a value has the type of a field and keeps to its limits."""
    try:
        _adapter(model, name).validate_python(value)
    except ValidationError:
        return False
    return True


def get(config: Any, path: Path) -> Any:
    """The value at a path; None if it is not written."""
    for key in path:
        try:
            config = config[key]
        except (KeyError, IndexError, TypeError):
            return None
    return config


def put(config: Any, path: Path, value: Any) -> None:
    """Write a value at a path, with the mappings and lists around it."""
    for key, following in itertools.pairwise(path):
        inner = get(config, (key,))
        if not isinstance(inner, dict | list):
            inner = [] if isinstance(following, int) else {}
            _set(config, key, inner)
        config = inner
    _set(config, path[-1], value)


def _set(config: Any, key: str | int, value: Any) -> None:
    if value is REMOVED:
        config.pop(key, None)
    elif isinstance(config, list) and key == len(config):
        config.append(value)
    else:
        config[key] = value


def with_sections(config: Config, option: Option, names: Names) -> Config:
    """A copy of the configuration with all sections around a key."""
    found = copy.deepcopy(config)
    for path, model in option.opened:
        if not isinstance(get(found, path), dict):
            put(found, path, minimal(model, names))
    return found


def matches(patterns: Iterable[str], option: Option) -> bool:
    """Whether one of the patterns fits the label of a key."""
    return any(re.fullmatch(pattern, option.label) for pattern in patterns)


def put_all(config: Config, table: Table, option: Option, root: Path, value: Any = None) -> None:
    """Write what a table lists for a key. Paths without dots at the start begin at `root`."""
    for pattern, further in table.items():
        for place, other in further.items() if matches([pattern], option) else ():
            up = len(place) - len(place.lstrip("."))
            keys = tuple(int(key) if key.isdigit() else key for key in place[up:].split("."))
            path = (*option.path[:-up], *keys) if up else (*root, *keys)
            put(config, path, other if other is REMOVED else copy.deepcopy(value if other is VALUE else other))


def values(option: Option, config: Config, names: Names, given: Mapping[str, list[Any]]) -> Iterator[Any]:
    """Other values of a key than that in the configuration, those of the table `given` if it names the key. Each keeps to its type and limits."""
    current = get(config, option.path)
    if current is None and not option.field.is_required():
        current = option.field.get_default(call_default_factory=True)
    listed = [value for pattern, found in given.items() if matches([pattern], option) for value in found]
    for value in listed or other_values(str(option.path[-1]), option.field.annotation, current, names):
        if (value != current or type(value) is not type(current)) and fits(option.owner, option.name, value):
            yield value


def other_values(key: str, annotation: Any, current: Any, names: Names) -> Iterator[Any]:
    """Values of a type, those near the current one first. Some may break a limit or a rule that the type does not state."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from other_values(key, arguments[0], current, names)
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from other_values(key, argument, current, names)
    elif annotation is type(None):
        yield None
    elif origin is Literal:
        yield from arguments
    elif annotation is bool:
        yield from (not current, current)
    elif annotation is int:
        near = [current + 1, current * 2, current // 2, current - 1] if isinstance(current, int) else []
        yield from (*near, 1, 2, 3, 4, 5, 6, 8, 16, 32, 64, 300, 512)
    elif annotation is float:
        near = [current / 2, current * 2] if isinstance(current, int | float) else []
        yield from (*near, 0.5, 0.25, 1.5, 2.0)
    elif annotation is str:
        yield from names.get(key, TEXTS)
    elif origin in (list, tuple):
        length = len(arguments) if origin is tuple and Ellipsis not in arguments else 1
        items = list(other_values(key, arguments[0], get(current, (0,)), names))
        yield from ([item] * length for item in items)
        yield from ([first, second] for first, second in itertools.pairwise(items))
    elif origin is dict:
        keys = list(other_values(key, arguments[0], None, names))
        first = next(iter(current.values()), None) if isinstance(current, dict) else None
        for value in other_values(key, arguments[1], first, names):
            yield from ({**(current or {}), keys[0]: value}, {keys[-1]: value})
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield minimal(annotation, names)
