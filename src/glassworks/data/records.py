"""Records: one table per data set (records.parquet) with a key, a split, texts, messages, labels, a reference to the media bytes and their sizes.

A sample may lack any of them. The columns `messages` and `sizes` exist only in tables that use them.

The stage `records` (`glassworks.stages.records`) fills it.
"""

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glassworks.artifacts.digests import canonical_json
from glassworks.config.datasets import Split
from glassworks.data.messages import Message, Size, as_json, parse_messages, parse_sizes, stored_json
from glassworks.errors import DataError

TABLE = "records.parquet"
GROUP, BATCH = 1 << 16, 1 << 12
"""Rows written at a time, and rows decoded at a time: a table may be larger than memory."""
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("labels", pa.string()),
        ("media", pa.string()),
    ]
)
OPTIONAL = ("messages", "sizes")
"""Columns with JSON, null in a record without them."""


@dataclass(frozen=True)
class Record:
    """One sample before its media are read."""

    key: str
    """Unique in its data set. Has no dot and no slash, because it names members of a WebDataset tar."""
    split: Split
    group: str
    """Samples of one group share a split: an image id, a base concept, a speaker."""
    texts: list[str] = field(default_factory=list)
    """Captions of an image, or a text. The column and the key in a tar are called `captions`."""
    labels: dict[str, Any] = field(default_factory=dict)
    """Other metadata, as JSON."""
    media: dict[str, Any] = field(default_factory=dict)
    """The location of the media bytes, in the source's own format, as JSON."""
    messages: list[Message] = field(default_factory=list)
    """A conversation or a message tree."""
    sizes: dict[str, Size] = field(default_factory=dict)
    """Kind and size of the media files, by the name of the member in a tar."""


@dataclass(frozen=True)
class Dropped:
    """A sample, or a row of one, that cannot be used."""

    where: str
    """File and row or member."""
    reason: str
    """A kind, which the report counts, and after `: `, `; ` or ` (` the details."""
    count: int = 1
    """Samples that are lost."""


@dataclass(frozen=True)
class Remark:
    """A fact about the raw files that the user should know and that loses no sample."""

    reason: str
    """The fact, without a number: equal ones are counted."""
    where: str = ""
    count: int = 1


@dataclass(frozen=True)
class Pictures:
    """The images of a record, for the count of those that are in several splits."""

    split: Split
    digests: list[int]
    """64 bits of the sha256 of each."""


def write_table(path: Path, records: Iterable[Record]) -> None:
    """Write records as parquet, in the given order."""
    rows, optional = map(_row, records), ()
    writer = _writer(path, optional)
    try:
        while group := list(islice(rows, GROUP)):
            used = tuple(name for name in OPTIONAL if name in optional or any(row[name] for row in group))
            if used != optional:
                writer.close()
                optional, writer = used, _widened(path, used)
            writer.write_table(_table(group, optional), row_group_size=GROUP)
    finally:
        writer.close()


def join_tables(path: Path, tables: Sequence[Path]) -> None:
    """Write the records of several tables, in order, as one: the bytes are those of `write_table`."""
    names = {name for table in tables for name in pq.read_schema(table).names}
    optional = tuple(name for name in OPTIONAL if name in names)
    waiting = _schema(optional).empty_table()
    with _writer(path, optional) as writer:
        for table in tables:
            with pq.ParquetFile(table) as file:
                for group in range(file.num_row_groups):
                    waiting = pa.concat_tables([waiting, _with_columns(file.read_row_group(group), optional)])
                    if len(waiting) >= GROUP:
                        writer.write_table(waiting.slice(0, GROUP).combine_chunks(), row_group_size=GROUP)
                        waiting = waiting.slice(GROUP)
        if len(waiting):
            writer.write_table(waiting.combine_chunks(), row_group_size=GROUP)


def _with_columns(table: pa.Table, optional: Sequence[str]) -> pa.Table:
    """A table with these optional columns, null where it lacks them."""
    columns = {
        name: table[name] if name in table.column_names else pa.nulls(len(table), pa.string())
        for name in _schema(optional).names
    }
    return pa.table(columns, schema=_schema(optional))


def _schema(optional: Sequence[str]) -> pa.Schema:
    return pa.schema([*SCHEMA, *((name, pa.string()) for name in optional)])


def _writer(path: Path, optional: Sequence[str]) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, _schema(optional), compression="zstd", write_statistics=False)


def _widened(path: Path, optional: Sequence[str]) -> pq.ParquetWriter:
    """A writer after the row groups of `path`, rewritten with more columns."""
    narrow = path.with_name(f".{path.name}.narrow")
    path.rename(narrow)
    writer, file = _writer(path, optional), pq.ParquetFile(narrow)
    for group in range(file.num_row_groups):
        writer.write_table(_with_columns(file.read_row_group(group), optional), row_group_size=GROUP)
    file.close()
    narrow.unlink()
    return writer


def _row(record: Record) -> dict[str, Any]:
    """The cells of a record. They take far less memory than its messages as objects."""
    return {
        "key": record.key,
        "split": record.split,
        "group": record.group,
        "captions": record.texts,
        "labels": stored_json(record.labels),
        "media": canonical_json(record.media),
        "messages": stored_json(as_json(record.messages)) if record.messages else None,
        "sizes": stored_json(as_json(record.sizes)) if record.sizes else None,
    }


def _table(group: Sequence[dict[str, Any]], optional: Sequence[str]) -> pa.Table:
    schema = _schema(optional)
    return pa.table({name: [row[name] for row in group] for name in schema.names}, schema=schema)


def read_table(directory: Path, split: Split | None = None) -> Iterator[Record]:
    """The records of an artefact of the stage `records`, in order, optionally of one split only."""
    return (record for record in RecordTable(directory) if split is None or record.split == split)


class RecordTable:
    """The table of an artefact of the stage `records`. Holds at most one row group in memory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / TABLE
        with self._readable():
            self._file = pq.ParquetFile(self._path)
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = [sum(sizes[:group]) for group in range(len(sizes) + 1)]
        self._group, self._rows = -1, pa.table({})

    def __iter__(self) -> Iterator[Record]:
        with self._readable():
            for batch in self._file.iter_batches(BATCH):
                yield from map(_record, batch.to_pylist())

    def columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """The stored values of these columns, row by row."""
        with self._readable():
            for batch in self._file.iter_batches(BATCH, columns=list(names)):
                yield from zip(*(batch[name].to_pylist() for name in names), strict=True)

    def rows(self, numbers: "array[int]") -> Iterator[Record]:
        """The records of these rows, given in ascending order."""
        for group, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            mine = numbers[bisect_left(numbers, start) : bisect_left(numbers, end)]
            for first in range(0, len(mine), BATCH):
                rows = [number - start for number in mine[first : first + BATCH]]
                yield from map(_record, self._read(group).take(rows).to_pylist())

    def _read(self, group: int) -> pa.Table:
        """A row group, cached because neighbouring rows share it."""
        if self._group != group:
            with self._readable():
                self._group, self._rows = group, self._file.read_row_group(group)
        return self._rows

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{self._path}: cannot be read ({str(error).splitlines()[0]}); check it with `glassworks verify`"
            ) from None


@dataclass(frozen=True)
class Rows:
    """Some records of a table, read lazily."""

    table: RecordTable
    numbers: "array[int]"

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Record]:
        return self.table.rows(self.numbers)


def _record(row: dict[str, Any]) -> Record:
    messages, sizes, where = row.get("messages"), row.get("sizes"), f"record {row['key']!r}"
    return Record(
        row["key"],
        row["split"],
        row["group"],
        row["captions"],
        json.loads(row["labels"]),
        json.loads(row["media"]),
        parse_messages(json.loads(messages), where) if messages else [],
        parse_sizes(json.loads(sizes), where) if sizes else {},
    )
