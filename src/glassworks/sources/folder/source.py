"""The source `folder`: your own images, with a table of captions or a .txt beside each image.

Several rows with one file are several captions of that image; a repeated caption is left out. An optional `split`
(train, validation or val, test) fixes the split of a file. Two splits for one file raise an error; rows that cannot be
used are dropped.
"""

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from glassworks.data.captioned_images import CaptionedImages
from glassworks.data.file_kinds import HEAD
from glassworks.data.image_files import ImageFiles
from glassworks.data.karpathy import Listed, read_karpathy
from glassworks.data.layouts import find_tables, is_pair_glob, names_from, split_of_table, text_pairs
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.tables import Layout, Row, read_rows
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every image of the tables, in the order of its first row."""
    params, key = context.params, f"params.yaml: datasets.{context.stage.subject}"
    found = CaptionedImages(context, params["images"], once=True)
    tables: list[str] = []
    if not is_pair_glob(params["captions"]):
        tables = find_tables(found.images.inventory, params["captions"], f"{key}.captions")
    if tables and tables != ["captions.csv"] and params["captions"] is None:
        yield Remark("a table is found by its name", ", ".join(tables[:3]), len(tables))
    if tables and all(map(names_from, tables)):
        left = [name for name in found.images.inventory if names_from(name) and name not in tables]
        if left:
            yield Remark(
                "a metadata table beside those named is not read; captions: '*/metadata.*' reads all",
                left[0],
                len(left),
            )
    for name in tables:
        yield from _table(found, name, key)
    if not tables:
        yield from _pairs(found, key)
    yield from found.records()


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The bytes of a record's image, unchanged."""
    images = ImageFiles(context)
    return lambda record: images.media(record.media["file"])


def _table(found: CaptionedImages, name: str, key: str) -> Iterator[Dropped | Remark]:
    """Add the rows of a table."""
    params, path = found.context.params, found.images.folder / name
    base = str(PurePosixPath(name).parent).removeprefix(".")
    if names_from(name) and params["images"] is None:
        found.names.bases.setdefault(base, base)
    if PurePosixPath(name).suffix.lower() == ".json" and _may_be_karpathy(found, name):
        for item in read_karpathy(path, name):
            if isinstance(item, Listed):
                yield from found.add(item.where, item.file, item.captions, table=base, split=item.split)
            else:
                yield item
        return
    layout = Layout(
        key,
        columns=params["columns"],
        separator=params["separator"],
        encoding=params["encoding"],
        is_file=lambda cell: found.names.exists(cell, base),
    )
    split = split_of_table(name)
    for row in read_rows(path, name, layout):
        if isinstance(row, Row):
            given = row.split if row.split not in (None, "") else split
            yield from found.add(row.where, row.file, row.captions, table=base, split=given)
        else:
            yield row


def _may_be_karpathy(found: CaptionedImages, name: str) -> bool:
    """Whether a .json begins an object: Karpathy's file, since other tables are arrays."""
    with (found.images.folder / name).open("rb") as file:
        return file.read(HEAD).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _pairs(found: CaptionedImages, key: str) -> Iterator[Dropped | Remark]:
    """Add the text beside each image."""
    pairs = text_pairs(found.images.inventory)
    if not pairs:
        raise DataError(f"{key}.captions: no image has a .txt beside it")
    yield Remark("a caption is read from the text beside its image", count=len(pairs))
    for image, text in pairs.items():
        content = found.images.read(text)
        try:
            caption = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            yield Dropped(text, "not UTF-8 text")
            continue
        if len([line for line in caption.splitlines() if line.strip()]) > 1:
            yield Remark("a text has several lines, which are one caption", text)
        yield from found.add(text, image, [caption])
