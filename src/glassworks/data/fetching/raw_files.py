"""The raw files of a local data set: their folder and their inventory.

The user's folder is never changed. inventory.parquet has one row per file (path, size, sha256), sorted by path. Later
stages check every file they read against the inventory. If `path` is an archive, its files are extracted into the
artefact and read there.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glassworks.artifacts.digests import FileDigests, files_under
from glassworks.data.fetching.archives import SUFFIXES, extract, is_archive
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track

INVENTORY, EXTRACTED = "inventory.parquet", "files"
SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("sha256", pa.string())])


@dataclass(frozen=True)
class Entry:
    """Size and digest of a file when it was fetched."""

    size: int
    """Bytes."""
    sha256: str


def take_stock(context: Context, description: str) -> dict[str, Any]:
    """Write the inventory of the user's folder. If the path is an archive, extract the archive first.

    Raises `DataError` with the `description` of the expected files if the folder has no usable file.
    """
    dataset, given = context.stage.subject, context.local_path
    key = f"params.yaml: datasets.{dataset}.path: {context.stage.local_path}"
    expected = f"expected: {description}"
    if not given.exists():
        raise DataError(f"{key} does not exist; {expected}")
    if given.is_file() and not is_archive(given):
        raise DataError(f"{key} is neither a folder nor an archive ({' '.join(SUFFIXES)}); {expected}")
    if given.is_file():
        extract(given, context.output / EXTRACTED)
        folder = _top(context.output / EXTRACTED)
    else:
        folder = given
    files = [_checked(folder, name) for name in files_under(folder)]
    if not files:
        raise DataError(f"{key} holds no files; {expected}")
    digests = FileDigests(
        context.root / ".work/file-digests.json"
    )  # the key of this stage was just computed from these digests
    rows = [
        {"path": name, "size": (folder / name).stat().st_size, "sha256": digests.sha256(folder / name)}
        for name in track(files, f"digest {dataset}", len(files), "files")
    ]
    if folder == given:
        digests.save()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=SCHEMA),
        context.output / INVENTORY,
        compression="zstd",
        write_statistics=False,
    )
    return {"files": len(rows), "bytes": sum(row["size"] for row in rows)}


def raw_folder(context: Context) -> Path:
    """The folder with the files of a local data set: the user's folder, or the extracted archive."""
    extracted = context.inputs["raw"] / EXTRACTED
    return _top(extracted) if extracted.is_dir() else context.local_path


def open_inventory(context: Context) -> dict[str, Entry]:
    """The inventory written by `fetch`, by path relative to `raw_folder`."""
    rows = pq.read_table(context.inputs["raw"] / INVENTORY).to_pylist()
    return {row["path"]: Entry(row["size"], row["sha256"]) for row in rows}


def _top(extracted: Path) -> Path:
    """The folder with the files: the only top-level folder of an archive, if all files are in it."""
    entries = list(extracted.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else extracted


def _checked(folder: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{os.fsencode(folder / name)!r}: the name is not UTF-8; rename it") from None
    if not (folder / name).is_file():
        raise DataError(f"{folder / name}: is not a file that can be read (a broken link?); remove it")
    return name
