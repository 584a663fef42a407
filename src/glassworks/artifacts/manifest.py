"""manifest.json lists the content of an artefact; recipe.json records how the artefact was made.

Equal content gives an equal manifest: a manifest holds no times, no host and no absolute path. Later stages depend only on the manifest.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassworks.artifacts.digests import sha256_file
from glassworks.errors import ArtifactError

SCHEMA = 1
MANIFEST, RECIPE = "manifest.json", "recipe.json"
LATE_SECONDS = 5.0
"""Maximum delay between the visibility of a manifest and of its files, on a file system shared by several machines."""


@dataclass(frozen=True)
class Manifest:
    """Content of an artefact: digest and size of every file, and counts (samples, tokens, seconds)."""

    files: dict[str, dict[str, Any]]
    counts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "files": self.files, "counts": self.counts}


def describe(directory: Path, counts: dict[str, Any]) -> Manifest:
    """The manifest of the files in `directory`."""
    files = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, RECIPE):
            files[path.relative_to(directory).as_posix()] = {"sha256": sha256_file(path), "size": path.stat().st_size}
    return Manifest(files, counts)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of an artefact. Raises `ArtifactError` if the manifest is missing or invalid."""
    value = _read(directory / MANIFEST)
    if value is None:
        raise ArtifactError(f"{directory}: no {MANIFEST}; make it with `snakemake {directory}/{MANIFEST}`")
    if value.get("schema") != SCHEMA or not isinstance(value.get("files"), dict):
        raise ArtifactError(
            f"{directory / MANIFEST}: not a manifest of schema {SCHEMA}; delete the folder and make it again"
        )
    return Manifest(value["files"], value.get("counts", {}))


def read_recipe(directory: Path) -> dict[str, Any] | None:
    """The recipe of an artefact; None if it is missing or unreadable."""
    try:
        return _read(directory / RECIPE)
    except ArtifactError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ArtifactError(f"{path}: not JSON; delete the folder and make it again") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: not a JSON object; delete the folder and make it again")
    return value


def is_whole(directory: Path, manifest: Manifest | None = None) -> bool:
    """Whether every file that `manifest` (default: the directory's own) lists exists with its listed size. `faults` checks the digests, too."""
    try:
        manifest = manifest or read_manifest(directory)
        return all((directory / name).stat().st_size == entry["size"] for name, entry in manifest.files.items())
    except (ArtifactError, OSError):
        return False


def await_files(directory: Path) -> None:
    """Wait until every listed file is visible with its listed size. Raises `ArtifactError` after `LATE_SECONDS`."""
    waiting, end = read_manifest(directory).files, time.monotonic() + LATE_SECONDS
    while waiting := {name: entry for name, entry in waiting.items() if _size(directory / name) != entry["size"]}:
        path = directory / next(iter(waiting))
        if time.monotonic() > end:
            fault = "missing" if _size(path) is None else f"{_size(path)} bytes, the manifest says otherwise"
            raise ArtifactError(f"{path}: {fault}; make it again with `snakemake {directory}/{MANIFEST}`")
        time.sleep(0.2)
        for folder in {(directory / name).parent for name in waiting if (directory / name).parent.is_dir()}:
            list(folder.iterdir())  # makes NFS query the server again


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def faults(directory: Path) -> Iterator[str]:
    """One line for each difference between an artefact and its manifest, including digests."""
    try:
        manifest = read_manifest(directory)
    except ArtifactError as error:
        yield str(error)
        return
    if read_recipe(directory) is None:
        yield f"{directory / RECIPE}: missing or unreadable"
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            yield f"{path}: missing"
        elif path.stat().st_size != entry["size"]:
            yield f"{path}: {path.stat().st_size} bytes, the manifest says {entry['size']}"
        elif sha256_file(path) != entry["sha256"]:
            yield f"{path}: its sha256 is not the manifest's: the file was altered"
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if (
            path.is_file()
            and name not in manifest.files
            and name not in (MANIFEST, RECIPE)
            and not path.name.startswith(".")
        ):
            yield f"{path}: not in the manifest"
