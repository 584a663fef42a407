"""The keys of the YAML files that DVC watches for a stage of an experiment.

DVC rejects a watched key that is missing from the file, so every function returns written keys only.
"""

import re
from collections.abc import Iterator
from typing import Any

from glassworks.config.project import Project

PLAIN = re.compile(r"\w+")
"""Keys that can be part of a key path."""


def written_keys(project: Project, *keys: str) -> tuple[str, ...]:
    """Those of the keys that params.yaml sets explicitly."""
    return tuple(key for key in keys if key in project.params.model_fields_set)


def watched_sections(project: Project, name: str, *sections: str) -> dict[str, tuple[str, ...]]:
    """The written keys of some sections of an experiment, by file.

    A variant does not depend on the keys of its experiment that it overrides, but on its overrides if they concern these sections.
    """
    run = project.runs.get(name)
    file, overrides = (run.experiment, run.overrides) if run else (name, ())
    keys = [key for section in sections for key in _remaining(project.contents[file], section, overrides)]
    if run and any(
        _within(override, section) or _within(section, override) for override in overrides for section in sections
    ):
        keys.append(f"variants.{run.variant}.set")
    found = {f"experiments/{file}.yaml": tuple(keys)}
    if any(_within(section, "model") for section in sections):
        inherited = (base for base in project.bases(name) if "model" in project.contents[base])
        found |= {f"experiments/{base}.yaml": ("model",) for base in inherited}
    return found


def _remaining(content: Any, path: str, overrides: tuple[str, ...]) -> Iterator[str]:
    """The written keys at and below `path` that no override replaces; the whole path if there is no override."""
    value = content
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return
        value = value[key]
    if any(_within(path, override) for override in overrides):
        return
    if (
        isinstance(value, dict)
        and all(PLAIN.fullmatch(key) for key in value)
        and any(_within(o, path) for o in overrides)
    ):
        for key in value:
            yield from _remaining(content, f"{path}.{key}", overrides)
    else:
        yield path


def _within(path: str, section: str) -> bool:
    """Whether a key path is a section or lies in it."""
    return f"{path}.".startswith(f"{section}.")


def watched_encoder(project: Project, name: str) -> list[str]:
    """The written keys of an encoder in params.yaml, but the number of its jobs."""
    return [f"encoders.{name}.{field}" for field in sorted(project.params.encoders[name].model_fields_set - {"jobs"})]
