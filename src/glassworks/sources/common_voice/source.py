"""The source `common_voice`: LOCALE/{train,dev,test,validated}.tsv and LOCALE/clips/*.mp3.

The tables have no quoting: a quotation mark is part of a sentence. The columns client_id, path and sentence are needed; the others become labels.
"""

from collections.abc import Iterator
from typing import Any

from glassworks.config.base import nearest
from glassworks.config.datasets import Split
from glassworks.data.image_files import LocalFiles
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.spoken_files import Spoken, sound_media, spoken_records
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

TABLES: dict[str, Split] = {"train.tsv": "train", "dev.tsv": "validation", "test.tsv": "test"}
NEEDED = ("client_id", "path", "sentence")
COUNTS = ("up_votes", "down_votes")

media = sound_media


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every clip of the tables, in the order of their rows."""
    return spoken_records(context, _clips(context))


def _clips(context: Context) -> Iterator[Spoken | Dropped | Remark]:
    params, files = context.params, LocalFiles(context)
    key = f"params.yaml: datasets.{context.stage.subject}"
    wanted: dict[str, Split | None] = {**TABLES} if params["splits"] is None else {"validated.tsv": None}
    first = next(iter(wanted))
    folders = sorted(name.removesuffix(first) for name in files.inventory if f"/{name}".endswith(f"/{first}"))
    if params["locale"] is not None:
        locales = {folder.strip("/").rpartition("/")[2]: folder for folder in folders}
        if params["locale"] not in locales:
            raise DataError(f"{key}.locale: there is no {params['locale']!r}{nearest(params['locale'], list(locales))}")
        folders = [locales[params["locale"]]]
    if not folders:
        raise DataError(f"{key}.path: no {first} in it; expected LOCALE/{first} and LOCALE/clips/ of Common Voice")
    if len(folders) > 1:
        raise DataError(f"{key}.locale: several languages are there: {', '.join(folders)}; name one")
    for table, split in wanted.items():
        if folders[0] + table in files.inventory:
            yield from _rows(files, folders[0], table, split)


def _rows(files: LocalFiles, folder: str, table: str, split: Split | None) -> Iterator[Spoken | Dropped]:
    name = folder + table
    lines = files.read(name).decode("utf-8-sig", "replace").split("\n")
    header = lines[0].rstrip("\r").split("\t")
    if missing := [column for column in NEEDED if column not in header]:
        raise DataError(f"{files.folder / name}: no column {missing[0]!r}; found: {', '.join(header)[:200]}")
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where, cells = f"{name} line {number}", line.rstrip("\r").split("\t")
        if len(cells) != len(header):
            yield Dropped(where, f"another number of cells than the header has: {len(cells)} instead of {len(header)}")
            continue
        row = dict(zip(header, cells, strict=True))
        if not row["sentence"].strip():
            yield Dropped(where, "no sentence")
            continue
        clip = row["path"] if "." in row["path"] else f"{row['path']}.mp3"
        labels: dict[str, Any] = {column: value for column, value in row.items() if value and column not in NEEDED}
        labels = {column: int(v) if column in COUNTS and v.isdigit() else v for column, v in labels.items()}
        yield Spoken(where, f"{folder}clips/{clip}", [row["sentence"]], row["client_id"], split, labels)
