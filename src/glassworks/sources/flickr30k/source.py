"""The source `flickr30k`: results.csv or captions.txt of Kaggle, results_20130124.token as published, or Karpathy's JSON
alone, and the folder of the images; five captions for each of 31,783 images.

results.csv has the header `image_name| comment_number| comment` and no quoting: a quotation mark is part of a caption,
unless pandas wrote the table again and quoted the whole cell. One published row lacks its second delimiter and is
repaired. Any other unreadable row is dropped. Karpathy's dataset_flickr30k.json defines the images and their split.
Images that it does not list (769 of the published ones) are left out, and their number is reported.
"""

from collections.abc import Callable, Iterator
from typing import Any

from glassworks.data.captioned_images import CaptionedImages
from glassworks.data.image_files import ImageFiles
from glassworks.data.karpathy import Listed, read_karpathy
from glassworks.data.layouts import find_tables
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.tables import Layout, Row, numbered_lines, read_rows
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

TABLE, OTHERS = "results.csv", ("results_20130124.token", "results.token", "captions.txt", "captions.csv")
FOLDERS = ("flickr30k_images", "flickr30k-images", "flickr30k_images/flickr30k_images", "Images", "images")
HEADER = ["image_name", "comment_number", "comment"]
BROKEN_ROW = "2199200615.jpg| 4   A dog runs across the grass ."
REPAIRED_ROW = "2199200615.jpg| 4| A dog runs across the grass ."


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every image of the table (or of Karpathy's split), in the order of its first row."""
    found = CaptionedImages(context)
    inventory, key = found.images.inventory, f"params.yaml: datasets.{context.stage.subject}"
    others = [name for name in OTHERS if name in inventory]
    karpathy: str | None = None
    if context.params["karpathy"] is not None:
        [karpathy] = find_tables(inventory, context.params["karpathy"], f"{key}.karpathy")
    folder = next((one for one in FOLDERS if any(name.startswith(f"{one}/") for name in inventory)), FOLDERS[0])
    if TABLE in inventory or not (others or karpathy):
        rows = _results(found, f"Kaggle's {TABLE} with the header {'| '.join(HEADER)}")
    elif others:
        layout = Layout(key, is_file=lambda cell: f"{folder}/{cell}" in inventory)
        rows = read_rows(found.images.folder / others[0], others[0], layout)
    else:
        rows = iter(())
    for row in rows:
        if isinstance(row, Row):
            yield from found.add(row.where, _path(folder, row.file), row.captions)
        else:
            yield row
    if karpathy is not None:
        yield from _karpathy(found, karpathy, folder, (TABLE if TABLE in inventory else (others or [""])[0]))
    yield from found.records()


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The bytes of a record's image, unchanged."""
    images = ImageFiles(context)
    return lambda record: images.media(record.media["file"])


def _path(folder: str, name: Any) -> Any:
    return f"{folder}/{name.strip()}" if isinstance(name, str) and name.strip() else name


def _results(found: CaptionedImages, expected: str) -> Iterator[Row | Dropped | Remark]:
    """The rows of results.csv. Only a line feed ends a row, because captions may contain other separators."""
    path, header = found.images.folder / TABLE, None
    for number, line in numbered_lines(path, Layout("", roles=("file", "caption")), expected):
        text = line.strip()
        if header is None:
            header = [cell.strip() for cell in text.split("|")]
            if header != HEADER:
                raise DataError(f"{path}: columns found: {', '.join(header)}; expected {expected}")
            continue
        if not text:
            continue
        where = f"{TABLE} line {number}"
        cells = (REPAIRED_ROW if text == BROKEN_ROW else line.rstrip("\r\n")).split("|")
        if len(cells) != len(HEADER) or not cells[0].strip() or not cells[1].strip().isdecimal():
            yield Dropped(where, f"expected {'| '.join(HEADER)}: found {text[:80]!r}")
            continue
        caption = cells[2]
        if len(caption) > 2 and caption[0] == caption[-1] == '"' and '"' not in caption[1:-1].replace('""', ""):
            caption = caption[1:-1].replace('""', '"')
            yield Remark("a caption is unquoted, as pandas quotes cells", where)
        yield Row(where, cells[0].strip(), [caption], None)


def _karpathy(found: CaptionedImages, name: str, folder: str, table: str) -> Iterator[Dropped | Remark]:
    """Keep the images of Karpathy's split, with their split; without a table, its captions, too."""
    captioned, found.samples = found.samples, {}
    for item in read_karpathy(found.images.folder / name, name):
        if not isinstance(item, Listed):
            yield item
            continue
        file = _path(folder, item.file)
        if not table:
            yield from found.add(item.where, file, item.captions, split=item.split)
        elif file not in captioned:
            yield Dropped(item.where, f"{table} has no caption for it")
        elif file in found.samples and found.samples[file].split != item.split:
            raise DataError(
                f"{name}: {item.file} is in two splits, {found.samples[file].split} and {item.split} ({item.where})"
            )
        else:
            captioned[file].split = item.split
            found.samples[file] = captioned[file]
    if table and (left := len(captioned) - len(found.samples)):
        found.unused.update(captioned)
        yield Remark(f"an image of {table} is not in {name} and is left out", count=left)
