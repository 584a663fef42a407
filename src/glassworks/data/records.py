"""Records: one table per data set (records.parquet) with a key, a split, captions, labels and a reference to the media bytes.

The stage `records` turns raw files into records. Samples that cannot be used are dropped, counted, listed in dropped.json, and bounded by `max_dropped`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glassworks.artifacts.digests import canonical_json, write_json
from glassworks.config.datasets import SPLITS, Split
from glassworks.data.sources import source_module
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

TABLE = "records.parquet"
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


@dataclass(frozen=True)
class Record:
    """One sample before its media are read."""

    key: str
    """Unique in its data set; no dot and no slash, so that it can name members of a WebDataset tar."""
    split: Split
    group: str
    """What must stay in one split: an image id, a base concept, a speaker."""
    captions: list[str]
    labels: dict[str, Any] = field(default_factory=dict)
    """Anything else that is known, as JSON."""
    media: dict[str, Any] = field(default_factory=dict)
    """Where the media bytes are, in the source's own terms, as JSON."""


@dataclass(frozen=True)
class Dropped:
    """A sample that cannot be used."""

    where: str
    """File and row or member."""
    reason: str


def run(context: Context) -> dict[str, Any]:
    """The stage `records`. Raises `DataError` for more dropped samples than allowed, a repeated or impossible key, or an empty training split."""
    kept: list[Record] = []
    dropped: list[Dropped] = []
    allowed = context.params["max_dropped"]
    for item in source_module(context.params["source"]).records(context):
        if isinstance(item, Record):
            kept.append(item)
        else:
            dropped.append(item)
    if len(dropped) > allowed:
        first = "; ".join(f"{item.where}: {item.reason}" for item in dropped[:3])
        more = f" (and {len(dropped) - 3} more)" if len(dropped) > 3 else ""
        raise DataError(
            f"{context.stage.subject}: {len(dropped)} samples cannot be used and datasets.{context.stage.subject}.max_dropped is {allowed}: {first}{more}"
        )
    _check(context.stage.subject, kept)
    write_table(context.output / TABLE, kept)
    write_json(context.output / "dropped.json", [{"where": item.where, "reason": item.reason} for item in dropped])
    by_split = {split: sum(record.split == split for record in kept) for split in SPLITS}
    return {"samples": by_split, "captions": sum(len(record.captions) for record in kept), "dropped": len(dropped)}


def _check(dataset: str, records: list[Record]) -> None:
    seen: set[str] = set()
    split_of_group: dict[str, Split] = {}
    for record in records:
        if not record.key or set(record.key) & set("./\\\0"):
            raise DataError(f"{dataset}: the key {record.key!r} cannot name a member of a tar (no dots, no slashes)")
        if record.key in seen:
            raise DataError(f"{dataset}: two samples have the key {record.key!r}")
        if split_of_group.setdefault(record.group, record.split) != record.split:
            raise DataError(f"{dataset}: the group {record.group!r} is in two splits")
        seen.add(record.key)
    if not any(record.split == "train" for record in records):
        raise DataError(f"{dataset}: no sample is left for training")


def write_table(path: Path, records: list[Record]) -> None:
    """Write records as parquet, in the order given."""
    columns = {
        "key": [record.key for record in records],
        "split": [record.split for record in records],
        "group": [record.group for record in records],
        "captions": [record.captions for record in records],
        "labels": [canonical_json(record.labels) for record in records],
        "media": [canonical_json(record.media) for record in records],
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), path, compression="zstd", write_statistics=False)


def read_table(directory: Path, split: Split | None = None) -> Iterator[Record]:
    """The records of an artefact of the stage `records`, in order; those of one split when asked."""
    file = directory / TABLE
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{file}: cannot be read ({str(error).splitlines()[0]}); check it with `glassworks verify`"
        ) from None
    for batch in table.to_batches():
        for row in batch.to_pylist():
            if split is None or row["split"] == split:
                row["labels"], row["media"] = json.loads(row["labels"]), json.loads(row["media"])
                yield Record(**row)
