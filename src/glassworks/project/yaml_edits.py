"""Edits of YAML files that a person keeps: every other character, comments included, stays as it is.

A YAML library that writes the whole file would set its own spaces and line breaks. So text is inserted at the places that the parser gives, and the
result is parsed again.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from glassworks.artifacts.digests import write_bytes, write_text
from glassworks.config.base import read_yaml
from glassworks.config.project import PARAMS, Project, load_project
from glassworks.errors import ConfigError

NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")
"""Names of data sets and experiments (`config.base.Name`)."""


def read_source(path: Path) -> str:
    """The text of a YAML file with its line ends. Raises `ConfigError` if it cannot be parsed."""
    read_yaml(path)
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def with_entry(text: str, section: str, lines: list[str]) -> str:
    """A YAML text with an entry after the last one of a mapping at the top level.

    `lines` are the entry in block style: `NAME:` and its settings, indented by two spaces.
    """
    node = _section(text, section)
    if node is None or not node.value:
        return _with_first(text, section, node, [f"  {line}" for line in lines])
    if node.flow_style:
        content = yaml.safe_load("\n".join(lines))
        flow = yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=1 << 20).strip()
        at = node.value[-1][1].end_mark.index
        return f"{text[:at]}, {flow[1:-1]}{text[at:]}"
    indent = " " * node.value[0][0].start_mark.column
    return _after_line(text, _last_line(node), [indent + line for line in lines])


def with_item(text: str, section: str, item: str) -> str:
    """A YAML text with one more item of a list at the top level."""
    node = _section(text, section)
    if node is None or not node.value:
        return _with_first(text, section, node, [f"  - {item}"])
    if node.flow_style:
        at = node.value[-1].end_mark.index
        return f"{text[:at]}, {item}{text[at:]}"
    return _after_line(text, _last_line(node), [" " * node.start_mark.column + f"- {item}"])


def scalars(text: str) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Every value of a YAML text that is neither a mapping nor a list, and the names of mappings, by key path."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None:
        yield from _scalars(root, "")


def _scalars(node: yaml.Node, path: str) -> Iterator[tuple[str, yaml.ScalarNode]]:
    if isinstance(node, yaml.ScalarNode):
        yield path, node
    elif isinstance(node, yaml.SequenceNode):
        for index, entry in enumerate(node.value):
            yield from _scalars(entry, f"{path}.{index}")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{key.value}".removeprefix(".")
            yield inner, key
            yield from _scalars(value, inner)


def with_key(text: str, place: tuple[str | int, ...], name: str) -> tuple[int, str]:
    """The line of the key at a path, from 1, and a YAML text with another name for it."""
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    found = None
    for part in place:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            continue
        entries = node.value if isinstance(node, yaml.MappingNode) else ()
        found, node = next(((key, value) for key, value in entries if key.value == part), (None, None))
    assert found is not None, place
    return found.start_mark.line + 1, text[: found.start_mark.index] + name + text[found.end_mark.index :]


@contextmanager
def drafts(texts: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """Files with these texts in a temporary folder, by relative path, for `load_project`."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for number, (name, text) in enumerate(texts.items()):
            found[name] = Path(folder, f"{number}.yaml")
            found[name].write_bytes(text.encode())
        yield found


def check(root: Path, texts: Mapping[str, str], expected: Any) -> Project:
    """The project with these texts in place of its files. Raises `ConfigError` for a fault, or if params.yaml is not `expected` then."""
    with drafts(texts) as files:
        try:
            found = read_yaml(files[PARAMS])
        except ConfigError:
            found = None
        if found != expected:
            raise ConfigError(
                f"{PARAMS}: its form cannot be extended by a program; add the entry by hand (--dry-run shows it)"
            )
        return load_project(root, files)


def write(root: Path, texts: Mapping[str, str]) -> None:
    """Write the files, each atomically; those that others name must come first."""
    for name, text in texts.items():
        write_text(root / name, text)


def write_all(root: Path, texts: Mapping[str, str]) -> None:
    """Write all files or none: what was replaced before an error is put back."""
    before = {name: (root / name).read_bytes() for name in texts}
    try:
        write(root, texts)
    except BaseException:
        for name, content in before.items():
            if (root / name).read_bytes() != content:
                write_bytes(root / name, content)
        raise


def _section(text: str, section: str) -> Any:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return None
    return next((value for key, value in root.value if key.value == section), None)


def _with_first(text: str, section: str, node: Any, lines: list[str]) -> str:
    """The text with the first entry of a section that is empty or not there."""
    if node is None:
        return _after_line(text, len(text.splitlines()) - 1, [f"{section}:", *lines])
    start, end = node.start_mark.index, node.end_mark.index
    return _after_line(text[:start].rstrip(" ") + text[end:], node.start_mark.line, lines)


def _last_line(node: yaml.Node) -> int:
    """The line in which the last value of a node ends; the end of a block node itself is where the next key begins."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(node, yaml.MappingNode) else last)
    line: int = node.end_mark.line
    block = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    return line - 1 if block else line


def _after_line(text: str, line: int, lines: list[str]) -> str:
    """The text with further lines after line number `line`, counted from 0."""
    end = "\r\n" if "\r\n" in text else "\n"
    found = text.splitlines(keepends=True)
    before = found[: line + 1]
    if before and not before[-1].endswith(("\n", "\r")):
        before[-1] += end
    return "".join([*before, *(f"{one}{end}" for one in lines), *found[line + 1 :]])
