"""The source `texts`: your own texts for language models, from plain text files, JSONL and other tables.

A plain text file is one document, or its paragraphs or lines. A row of a table is one text. Equal texts share a group.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from glassworks.config.datasets import Split
from glassworks.data.captioned_images import named_split
from glassworks.data.fetching.raw_files import open_inventory, raw_folder
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.splits import split_of
from glassworks.data.tables import Layout, Row, numbered_lines, read_rows
from glassworks.data.texts import clean_texts
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

PLAIN, TABLES = (".txt", ".md", ".text"), (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every text, file by file in the order of their names."""
    params, seen = context.params, dict[int, Split]()
    torn = 0
    for number, (name, item) in enumerate(_texts(context)):
        if not isinstance(item, Row):
            yield item
            continue
        texts, reasons = clean_texts(item.captions)
        split, fault = named_split(item.split)
        if fault or not texts:
            yield Dropped(item.where, fault or (reasons or ["no caption"])[0].replace("caption", "text"))
            continue
        text = "\n".join(texts)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        chosen = split or seen.get(int(digest, 16)) or split_of(digest, params["splits"], params["seed"])
        apart = seen.setdefault(int(digest, 16), chosen) != chosen
        torn += apart
        key = re.sub(r"[^\w-]", "_", str(PurePosixPath(name).with_suffix("")))[-64:]
        yield Record(
            f"{key}-{number:08}",
            chosen,
            f"{digest}-{chosen}" if apart else digest,
            [text],
        )
    if torn:
        yield Remark("a text is the same as one of another split, as published", count=torn)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """A function that returns no media: a record holds its text."""
    return lambda record: {}


def _texts(context: Context) -> Iterator[tuple[str, Row | Dropped | Remark]]:
    """The texts of each file, with the file's name."""
    params, key = context.params, f"params.yaml: datasets.{context.stage.subject}"
    folder, inventory = raw_folder(context), open_inventory(context)
    layout = Layout(
        key,
        roles=("text",),
        columns=params["columns"],
        separator=params["separator"],
        encoding=params["encoding"],
    )
    glob, used, others = params["files"], 0, list[str]()
    for name in sorted(inventory):
        suffix = PurePosixPath(name).suffix.lower()
        if glob != "**" and not fnmatchcase(name, glob):
            continue
        if suffix in TABLES:
            rows = read_rows(folder / name, name, layout)
        elif suffix in PLAIN or glob != "**":
            rows = _plain(context, name, layout)
        else:
            others.append(name)
            continue
        used += 1
        yield from ((name, row) for row in rows)
    if not used:
        shown = f"; found: {', '.join(others[:5])}" if others else ""
        raise DataError(f"{key}.files: {glob} matches no text or table ({' '.join(PLAIN + TABLES)}){shown}")
    if others:
        yield "", Remark("a file is neither a text nor a table and is left out", others[0], len(others))


def _plain(context: Context, name: str, layout: Layout) -> Iterator[Row | Dropped]:
    """The texts of a plain text file."""
    unit, path = context.params["unit"], raw_folder(context) / name
    if not path.stat().st_size:
        yield Dropped(name, "the file is empty")
        return
    part: list[str] = []
    first = 1
    for number, line in numbered_lines(path, layout, "text"):
        ends = unit == "line" or (unit == "paragraph" and not line.strip())
        if not part:
            first = number
        part.append(line)
        if ends:
            if any(piece.strip() for piece in part):
                yield Row(f"{name} line {first}", None, ["".join(part)], None)
            part = []
    if any(piece.strip() for piece in part):
        yield Row(name if unit == "document" else f"{name} line {first}", None, ["".join(part)], None)
    elif unit == "document":
        yield Dropped(name, "no text")
