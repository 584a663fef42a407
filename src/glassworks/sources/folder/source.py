"""The source `folder`: your own images, with a CSV (columns file, caption) or JSONL (keys file, caption or captions).

Several rows with one file are several captions of that image. An optional `split` (train, validation or val, test)
fixes the split of a file. Rows are counted from 1, without the header. A file outside the folder, an unknown split or
two splits for one file raise an error; other unusable rows are dropped.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glassworks.config.datasets import Split
from glassworks.data.captioned_images import Captioned, read_text, to_records
from glassworks.data.image_files import ImageFiles, inside
from glassworks.data.records import Dropped, Record
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

SPLIT_NAMES: dict[str, Split] = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
EXPECTED = "a CSV with the columns file and caption, or a .jsonl with the keys file and caption (or captions)"


def records(context: Context) -> Iterator[Record | Dropped]:
    """Every image of the table, in the order of its first row."""
    images = ImageFiles(context)
    name = inside(context.params["captions"], f"params.yaml: datasets.{context.stage.subject}.captions")
    samples: dict[str, Captioned] = {}
    for number, row in enumerate(_rows(images.folder / name), start=1):
        where = f"{name} row {number}"
        if isinstance(row, str):
            yield Dropped(where, row)
            continue
        if not isinstance(row.get("file"), str) or not row["file"].strip():
            yield Dropped(where, f"no file is named (found: {', '.join(map(str, row))})")
            continue
        file = inside(row["file"].strip(), where)
        where = f"{where} ({file})"
        captions = _captions(row)
        if not captions:
            yield Dropped(where, "no caption")
            continue
        sample = samples.setdefault(file, Captioned(file, where))
        sample.captions += captions
        _fix_split(sample, row.get("split"), where)
    yield from to_records(context, images, list(samples.values()))


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The bytes of a record's image, unchanged."""
    images = ImageFiles(context)
    return lambda record: images.media(record.media["file"])


def _rows(table: Path) -> Iterator[dict[str, Any] | str]:
    """Rows by column. An unreadable row is replaced by the reason, as text."""
    text = read_text(table, EXPECTED)
    yield from _json_rows(text) if table.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(table, text)


def _csv_rows(table: Path, text: str) -> Iterator[dict[str, Any] | str]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if not {"file", "caption"} <= set(header):
            raise DataError(f"{table}: columns found: {', '.join(header) or 'none'}; expected {EXPECTED}")
        for cells in reader:
            if cells:
                complete = len(cells) == len(header)
                yield (
                    dict(zip(header, cells, strict=True))
                    if complete
                    else f"{len(cells)} cells where the header has {len(header)}"
                )
    except csv.Error as error:
        raise DataError(f"{table}:{reader.line_num}: not CSV ({error})") from None


def _json_rows(text: str) -> Iterator[dict[str, Any] | str]:
    for line in text.split("\n"):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                yield f"not JSON ({error.msg})"
                continue
            yield row if isinstance(row, dict) else "not a JSON object"


def _captions(row: dict[str, Any]) -> list[str]:
    """The non-blank captions of a row."""
    several = row.get("captions")
    given = several if isinstance(several, list) else [row.get("caption")]
    return [caption.strip() for caption in given if isinstance(caption, str) and caption.strip()]


def _fix_split(sample: Captioned, given: Any, where: str) -> None:
    if given is None or given == "":
        return
    split = SPLIT_NAMES.get(given.strip()) if isinstance(given, str) else None
    if split is None:
        raise DataError(f"{where}: unknown split {given!r}; allowed: {', '.join(SPLIT_NAMES)}, or nothing")
    if sample.split not in (None, split):
        raise DataError(
            f"{where}: split {split}, but an earlier row of the same file says {sample.split}; "
            f"an image belongs to one split"
        )
    sample.split = split
