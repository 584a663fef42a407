"""`glassworks migrate`: keys that have another name now, renamed in params.yaml and experiments/*.yaml.

Only the keys change: values, comments and layout stay. The whole project is checked first, and either all files are written or none.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glassworks.config import registry
from glassworks.config.base import read_yaml, renamed_keys
from glassworks.config.params import Params
from glassworks.config.project import PARAMS, experiment_class, load_project, parse_experiment
from glassworks.config.variants import overridden
from glassworks.errors import ConfigError
from glassworks.project.yaml_edits import drafts, read_source, with_key, write_all

Place = tuple[str | int, ...]
"""The path of a key."""


def migrate(root: Path, dry_run: bool, show: Callable[[str], None]) -> None:
    """Rename the keys of the YAML files of a project, and pass a line for each change to `show`. With `dry_run`, write nothing.

    Raises `ConfigError` for the first fault that no new name removes. Then no file is written.
    """
    files = [PARAMS, *(f"experiments/{path.name}" for path in sorted((root / "experiments").glob("*.yaml")))]
    texts, lines = {}, []
    for file in files:
        text, changes = _migrated(root / file, file)
        lines += changes
        if changes:
            texts[file] = text
    _check(root, files, texts)
    for line in lines:
        show(line)
    if not lines:
        show(f"no key to rename in {len(files)} files")
    elif dry_run:
        show("nothing is written: --dry-run")
    else:
        write_all(root, texts)
        show(f"{len(lines)} keys renamed in {len(texts)} files")


def _migrated(path: Path, file: str) -> tuple[str, list[str]]:
    """The text of a file with the new names, and a line for each of them. Raises `ConfigError` for a new name that is there already."""
    text, content, lines = read_source(path), read_yaml(path), []
    while found := dict(_renamed(content, file)):
        for place, name in found.items():
            where = ".".join(map(str, place))
            section = _section(content, place)
            if place[-1] not in section:  # renamed where an alias has it from
                continue
            if name in section:
                raise ConfigError(f"{file}: {where}: {name} is there, too; remove one of them. Nothing is written")
            line, text = with_key(text, place, name)
            _rename(section, place[-1], name)
            lines.append(f"{file}:{line}: {where} -> {'.'.join(map(str, (*place[:-1], name)))}")
    with drafts({file: text}) as written:
        if read_yaml(written[file]) != content:
            raise ConfigError(f"{file}: its form cannot be changed by a program; rename the keys by hand: {lines[0]}")
    return text, lines


def _renamed(content: Any, file: str) -> Iterator[tuple[Place, str]]:
    """The new name of each key that has one, by its path. The last part may be the key path of an override of a variant."""
    if file == PARAMS:
        yield from renamed_keys(Params, content).items()
        return
    task = content.get("task") if isinstance(content, dict) else None
    if task not in registry.names("tasks"):
        return
    model = experiment_class(task)
    yield from renamed_keys(model, content).items()
    variants = content.get("variants")
    for name, variant in variants.items() if isinstance(variants, dict) else ():
        overrides = variant.get("set") if isinstance(variant, dict) else None
        for key, value in overrides.items() if isinstance(overrides, dict) else ():
            try:
                changed = overridden(content, {key: value}, file)
            except ConfigError:
                continue
            written = tuple(str(key).split("."))
            for place, new in renamed_keys(model, changed).items():
                if place == written:
                    yield ("variants", name, "set", key), ".".join((*written[:-1], new))
                elif place[: len(written)] == written:
                    yield ("variants", name, "set", key, *place[len(written) :]), new


def _section(content: Any, place: Place) -> dict[Any, Any]:
    """The mapping with the last key of a path."""
    for key in place[:-1]:
        content = content[key]
    assert isinstance(content, dict)
    return content


def _rename(section: dict[Any, Any], key: str | int, name: str) -> None:
    """Rename a key in place; the order of the keys stays."""
    items = [(name if other == key else other, value) for other, value in section.items()]
    section.clear()
    section.update(items)


def _check(root: Path, files: list[str], texts: dict[str, str]) -> None:
    """Raise `ConfigError` with the first fault of the project and of the experiments that it does not list."""
    try:
        with drafts(texts) as changed:
            project = load_project(root, changed)
            for file in files:
                if file != PARAMS and Path(file).stem not in project.contents:
                    parse_experiment(read_yaml(changed.get(file, root / file)), file)
    except ConfigError as error:
        first, *others = str(error).splitlines()
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(f"{first}{more}; nothing is written") from None
