"""Base class and parsing of all settings: strict types, no unknown keys, and errors that name file, key path, value and remedy."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glassworks.config.renames import RELATED, RENAMED
from glassworks.errors import ConfigError

M = TypeVar("M", bound="Settings")
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
"""Name of a dataset, of weights or of an experiment."""


class Settings(BaseModel):
    """Base class of all settings. Field docstrings become the descriptions in the JSON Schemas under schemas/."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class _Loader(yaml.SafeLoader):
    """A SafeLoader that parses `1e-3` as a number (as in YAML 1.2) and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9]*[eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises `ConfigError` with file and line if it cannot be parsed."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: {getattr(error, 'problem', None) or error}") from None


def parse(model: type[M], value: Any, file: Path | str) -> M:
    """`value` validated as a `model`. Raises `ConfigError` with one line per fault."""
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: expected a mapping of keys to values, found {type(value).__name__}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError("\n".join(dict.fromkeys(_line(model, fault, file) for fault in error.errors()))) from None


def first_fault(model: type[BaseModel], error: ValueError, file: Path | str) -> str:
    """The first line of the faults that `parse` would report, or the message of another error."""
    return _line(model, error.errors()[0], file) if isinstance(error, ValidationError) else f"{file}: {error}"


def nearest(name: str, allowed: list[str]) -> str:
    """`; did you mean X?` with the closest valid name, whatever its case, or the list of valid names if none is close."""
    lower = {one.lower(): one for one in reversed(allowed)}
    match = difflib.get_close_matches(name, allowed, n=1)
    match = [lower[one] for one in difflib.get_close_matches(name.lower(), list(lower), n=1)] or match
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; allowed: {', '.join(sorted(allowed))}" if allowed else ""


def _line(model: type[BaseModel], fault: Any, file: Path | str) -> str:
    location = [part for part in fault["loc"] if not _is_tag(part)]
    path = ".".join(str(part) for part in location) or "(top level)"
    kind, given, context = fault["type"], fault.get("input"), fault.get("ctx", {})
    if kind == "extra_forbidden":
        hint = _known_elsewhere(model, str(location[-1]), list(fault["loc"][:-1]))
        return f"{file}: {path}: unknown key{hint or nearest(str(location[-1]), _fields_at(model, list(fault['loc'][:-1])))}"
    if kind == "missing":
        return f"{file}: {path}: this key is required"
    if kind == "union_tag_not_found":
        return f"{file}: {path}.{context['discriminator'].removesuffix('()')}: this key is required"
    if kind == "union_tag_invalid":
        key, tag = context["tag"].split("=", 1)
        allowed = re.findall(r"=(\w+)", context["expected_tags"])
        return f"{file}: {path}.{key}: unknown value {tag!r}{nearest(tag, allowed)}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"{file}: {path}: unknown value {given!r}{nearest(str(given), allowed)}"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{file}: {path}: {message}" + ("" if kind == "value_error" else f" (given: {given!r:.80})")


def _known_elsewhere(model: type[BaseModel], name: str, location: list[Any]) -> str:
    """`; write KEY` if one of our keys has another name."""
    for path, names in (*RENAMED.items(), *RELATED.items()):
        *parents, key = path.split(".")
        if name not in names:
            continue
        if key in _fields_at(model, location):
            return f"; write {key}"
        if parents and key in _fields_at(model, list(parents)):
            return f"; write {path}"
    return ""


def _new_name(model: type[BaseModel], name: str, location: list[Any]) -> str | None:
    """The present name of a key in the section at `location`; None for a key that was not renamed."""
    keys = (path.rpartition(".")[2] for path, names in RENAMED.items() if name in names)
    return next((key for key in keys if key in _fields_at(model, location)), None)


def renamed_keys(model: type[BaseModel], value: Any) -> dict[tuple[str | int, ...], str]:
    """The keys of `value` that `model` has under another name: the new name, by the path of the key."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        unknown = [list(fault["loc"]) for fault in error.errors() if fault["type"] == "extra_forbidden"]
        found = {tuple(path): _new_name(model, str(path[-1]), path[:-1]) for path in unknown}
        return {tuple(part for part in path if not _is_tag(part)): name for path, name in found.items() if name}
    return {}


def _is_tag(part: Any) -> bool:
    """Whether `part` is a union tag. Pydantic adds tags to the location; the user's file has no such keys."""
    return isinstance(part, str) and "=" in part


def _fields_at(model: type[BaseModel], location: list[Any]) -> list[str]:
    """Field names of the model at `location` inside `model`."""
    current = [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for candidate in current:
            if _is_tag(part):
                key, tag = part.split("=", 1)
                field = candidate.model_fields.get(key)
                following += [candidate] if field and (not tag or tag in get_args(field.annotation)) else []
            elif part in candidate.model_fields:
                following += _models_in(candidate.model_fields[part].annotation)
            else:  # the key of a dict or the index of a list: its values are already in `current`
                following.append(candidate)
        current = following
    return sorted({name for candidate in current for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
