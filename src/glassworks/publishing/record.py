"""glassworks.json: the record of a published folder, with the digest of every file in it."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError

from glassworks import __version__
from glassworks.artifacts.digests import sha256_file, write_json
from glassworks.config.base import Settings
from glassworks.config.datasets import Sha256
from glassworks.errors import ArtifactError

RECORD = "glassworks.json"
SCHEMA = 1
FOREIGN = (".cache/huggingface/", ".git/", ".gitattributes")
"""What the hub and its tools put beside the files of a repository."""


class Entry(Settings):
    """A file of the folder."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class Record(Settings):
    """The content of glassworks.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(alias="schema")]
    glassworks: str
    experiment: str
    stage: str
    manifest: Sha256
    """Digest of the manifest of the trained model."""
    facts: dict[str, Any]
    files: dict[str, Entry]


def describe(folder: Path) -> dict[str, dict[str, Any]]:
    """Digest and size of every file of a folder but the record itself."""
    return {
        name: {"sha256": sha256_file(path), "size": path.stat().st_size}
        for name, path in _files(folder)
        if name != RECORD
    }


def write_record(folder: Path, experiment: str, stage: str, manifest: str, facts: dict[str, Any]) -> None:
    """Write the record of a complete folder."""
    content = {"schema": SCHEMA, "glassworks": __version__, "experiment": experiment, "stage": stage}
    write_json(folder / RECORD, {**content, "manifest": manifest, "facts": facts, "files": describe(folder)})


def read_record(folder: Path) -> Record:
    """The record of a published folder. Raises `ArtifactError` if it is missing, unreadable, or names files outside the folder."""
    file = folder / RECORD
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder}: no {RECORD} there, so it is no folder of `glassworks publish`") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: not readable as JSON ({error}); download it again") from None
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ArtifactError(f"{file}: {where}: {fault['msg']}; download it again") from None
    if record.schema_version != SCHEMA:
        raise ArtifactError(
            f"{file}: schema {record.schema_version}, this glassworks reads {SCHEMA}; use another version"
        )
    outside = [name for name in record.files if not _is_inside(name)]
    if outside:
        raise ArtifactError(f"{file}: names {outside[0]!r}, which is not inside the folder")
    return record


def faults(folder: Path, record: Record) -> Iterator[str]:
    """One line for each file that is missing, changed, or not in the record."""
    for name, entry in record.files.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: missing"
        elif path.stat().st_size != entry.size:
            yield f"{path}: {path.stat().st_size} bytes, the record says {entry.size}"
        elif sha256_file(path) != entry.sha256:
            yield f"{path}: its sha256 is not the record's: the file was altered"
    for name, path in _files(folder):
        if name not in record.files and name != RECORD and not name.startswith(FOREIGN):
            yield f"{path}: not in the record"


def _files(folder: Path) -> list[tuple[str, Path]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return [(path.relative_to(folder).as_posix(), path) for path in paths]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name
