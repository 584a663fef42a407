"""Rows of JSONL, JSON and parquet files as JSON objects.

JSON is read row by row, so that no row gets the keys of another. Arrow gives all rows of a parquet file the same keys and fills them with null; null
keys are left out again.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from glassworks.data.fetching.raw_files import open_inventory
from glassworks.data.json_files import NotJSON, parse_json, parsed
from glassworks.data.records import Dropped, Remark
from glassworks.data.tables import Layout, numbered_lines, read_bytes
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
BATCH = 1 << 10
"""Rows of a parquet file that are decoded at a time."""
OBJECTS = ("arguments", "parameters")
"""Keys whose values have keys of their own in every row, and which Arrow merges."""
EXPECTED = "one JSON object a row"


class Row(NamedTuple):
    """A JSON object and its place."""

    where: str
    """File and physical line, entry or row."""
    value: dict[str, Any]


def matching_files(context: Context, suffixes: Sequence[str]) -> list[str]:
    """Names of the files of a local data set that `files` of its settings and the suffixes admit, sorted. Raises `DataError` if there is none."""
    glob, inventory = context.params["files"], open_inventory(context)
    names = [
        name
        for name in sorted(inventory)
        if (glob == "**" or fnmatchcase(name, glob)) and PurePosixPath(name).suffix.lower() in suffixes
    ]
    if not names:
        found = ", ".join(sorted(inventory)[:5])
        raise DataError(
            f"params.yaml: datasets.{context.stage.subject}.files: {glob} matches no {' '.join(suffixes)} file (found: {found})"
        )
    return names


def read_objects(
    path: Path, name: str, columns: Sequence[str] | None = None, *, encoding: str | None = None
) -> Iterator[Row | Dropped | Remark]:
    """The objects of a file, whose `name` messages use; of a parquet file, these `columns` or all.

    Raises `DataError` for a file that cannot be read at all.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(path, name, columns)
        return
    if suffix == ".json":
        entries = parsed(read_bytes(path, EXPECTED), path, "an array of JSON objects")
        if not isinstance(entries, list):
            found = ", ".join(list(entries)[:12]) if isinstance(entries, dict) else type(entries).__name__
            raise DataError(f"{path}: its JSON is no array of objects (found: {found}); one object a line is .jsonl")
        yield from (_row(f"{name} entry {number}", entry) for number, entry in enumerate(entries, start=1))
        return
    for number, line in numbered_lines(path, Layout(name, encoding=encoding), EXPECTED):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            yield _row(where, parse_json(line))
        except NotJSON as error:
            yield Dropped(where, str(error))


def _row(where: str, value: Any) -> Row | Dropped:
    return Row(where, value) if isinstance(value, dict) else Dropped(where, "not a JSON object")


def _parquet(path: Path, name: str, columns: Sequence[str] | None) -> Iterator[Row | Remark]:
    try:
        file = pq.ParquetFile(path)
        if missing := [column for column in columns or () if column not in file.schema_arrow.names]:
            raise DataError(
                f"{path}: missing column {missing[0]}; columns found: {', '.join(file.schema_arrow.names)}; "
                f"expected {', '.join(columns or ())}"
            )
        number = 0
        for batch in file.iter_batches(BATCH, columns=columns):
            for value in batch.to_pylist():
                number += 1
                where, merged = f"{name} row {number}", set[str]()
                yield Row(where, _without_nulls(value, merged))
                for key in sorted(merged):
                    reason = f"null keys inside {key}, as Arrow adds them when it merges rows, are left out"
                    yield Remark(f"{reason}; write JSONL, or {key} as JSON text, to keep them", where)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: not a parquet file that can be read ({str(error).splitlines()[0]})") from None


def _without_nulls(value: Any, merged: set[str], under: str = "") -> Any:
    """A value without null keys. Adds to `merged` the names among `OBJECTS` that held some."""
    if isinstance(value, list):
        return [_without_nulls(entry, merged, under) for entry in value]
    if not isinstance(value, dict):
        return value
    if under and None in value.values():
        merged.add(under)
    return {
        key: _without_nulls(entry, merged, key if key in OBJECTS else under)
        for key, entry in value.items()
        if entry is not None
    }
