"""The raw files of a local data set: their folder and their inventory.

The user's folder is never changed. inventory.parquet has one row per file (path, size, sha256), sorted by path. Later
stages check every file they read against the inventory. If `path` is an archive, its files are extracted into the
artefact and read there.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from glassworks.artifacts.digests import FileDigests
from glassworks.config.user_files import files_under, is_litter, is_utf8
from glassworks.data.fetching.archives import SUFFIXES, extract, is_archive
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track

INVENTORY, EXTRACTED = "inventory.parquet", "files"
SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("sha256", pa.string())])


class Entry(NamedTuple):
    """Size and digest of a file when it was fetched."""

    size: int
    """Bytes."""
    sha256: str


def take_stock(context: Context, description: str, single_files: Sequence[str] = ()) -> dict[str, Any]:
    """Write the inventory of the user's folder. If the path is an archive, extract the archive first.

    The path may be a file with one of the suffixes `single_files`. Its inventory has this file alone.

    Raises `DataError` with the `description` of the expected files if the folder has no usable file.
    """
    dataset, given = context.stage.subject, context.local_path
    key = f"params.yaml: datasets.{dataset}.path: {context.stage.local_path}"
    expected = f"expected: {description}"
    if not given.exists():
        raise DataError(f"{key} does not exist; {expected}")
    single = given.is_file() and given.suffix.lower() in single_files
    if given.is_file() and not single and not is_archive(given):
        raise DataError(f"{key} is neither a folder nor an archive ({' '.join(SUFFIXES)}); {expected}")
    if single:
        folder = given.parent
    elif given.is_file():
        extract(given, context.output / EXTRACTED)
        folder = _top(context.output / EXTRACTED)
    else:
        folder = given
    files = [given.name] if single else _usable(folder, dataset)
    if not files:
        raise DataError(f"{key} holds no files; {expected}")
    digests = FileDigests(
        context.root / ".work/file-digests.json"
    )  # the key of this stage was just computed from these digests
    rows = [
        {"path": name, "size": (folder / name).stat().st_size, "sha256": digests.sha256(folder / name)}
        for name in track(files, f"digest {dataset}", len(files), "files")
    ]
    if single or folder == given:
        digests.save()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=SCHEMA),
        context.output / INVENTORY,
        compression="zstd",
        write_statistics=False,
    )
    return {"files": len(rows), "bytes": sum(row["size"] for row in rows)}


def raw_folder(context: Context) -> Path:
    """The folder with the files of a local data set: the user's folder, the folder of a single file, or the extracted archive."""
    return raw_files_folder(context.inputs["raw"], context.local_path)


def raw_files_folder(raw: Path, given: Path) -> Path:
    """The folder with the files of a local data set, from the directory of its raw artefact and the path of the user."""
    extracted = raw / EXTRACTED
    if extracted.is_dir():
        return _top(extracted)
    return given.parent if given.is_file() else given


def open_inventory(context: Context) -> dict[str, Entry]:
    """The inventory written by `fetch`, by path relative to `raw_folder`."""
    found: dict[str, Entry] = {}
    for batch in pq.ParquetFile(context.inputs["raw"] / INVENTORY).iter_batches():
        columns = (batch.column(name).to_pylist() for name in SCHEMA.names)
        found.update((path, Entry(size, sha256)) for path, size, sha256 in zip(*columns, strict=True))
    return found


def _top(extracted: Path) -> Path:
    """The folder with the files: the only top-level folder of an archive, if all files but litter are in it."""
    entries = [path for path in extracted.iterdir() if not is_litter(path.name)]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else extracted


def _usable(folder: Path, dataset: str) -> list[str]:
    """The files that can be read and named. The others are left out, in one line for each reason."""
    found = files_under(folder)
    odd = [name for name in found if not is_utf8(name)]
    lost = [name for name in found if is_utf8(name) and not (folder / name).is_file()]
    for names, reason in ((odd, "the name is not UTF-8; rename it"), (lost, "a broken link or no plain file")):
        if names:
            shown = ", ".join(ascii(name) for name in names[:3])
            print(f"{dataset}: {len(names):,} left out of {folder}: {reason}: {shown}", file=sys.stderr)
    left = {*odd, *lost}
    return [name for name in found if name not in left]
