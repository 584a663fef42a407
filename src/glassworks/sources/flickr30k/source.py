"""The source `flickr30k`, in Kaggle's layout: results.csv and flickr30k_images/; five captions for each of 31,783
images.

results.csv has the header `image_name| comment_number| comment` and no quoting: a quotation mark is part of a caption.
One published row lacks its second delimiter and is repaired. Any other unreadable row is dropped. Karpathy's
dataset_flickr30k.json defines the images and their split. Images that it does not list (769 of the published ones)
are left out, and their number is reported. Rows are counted from 1, without the header.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from glassworks.config.datasets import Split
from glassworks.data.captioned_images import Captioned, read_json, read_text, to_records
from glassworks.data.image_files import ImageFiles, inside
from glassworks.data.records import Dropped, Record
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

TABLE, FOLDER = "results.csv", "flickr30k_images"
HEADER = ["image_name", "comment_number", "comment"]
BROKEN_ROW = "2199200615.jpg| 4   A dog runs across the grass ."
REPAIRED_ROW = "2199200615.jpg| 4| A dog runs across the grass ."
KARPATHY = 'Karpathy\'s dataset_flickr30k.json: {"images": [{"filename", "split": train, val or test}, …]}'
KARPATHY_SPLITS: dict[str, Split] = {"train": "train", "val": "validation", "test": "test"}


def records(context: Context) -> Iterator[Record | Dropped]:
    """Every image of results.csv (or of Karpathy's split), in the order of its first row."""
    images = ImageFiles(context)
    samples: dict[str, Captioned] = {}
    for number, line in enumerate(_lines(images.folder / TABLE), start=1):
        where = f"{TABLE} row {number}"
        cells = [cell.strip() for cell in (REPAIRED_ROW if line.strip() == BROKEN_ROW else line).split("|")]
        if len(cells) != len(HEADER) or not cells[0] or not cells[1].isdecimal():
            yield Dropped(where, f"expected {'| '.join(HEADER)}, found {line.strip()[:80]!r}")
            continue
        file = f"{FOLDER}/{inside(cells[0], where)}"
        where = f"{where} ({cells[0]})"
        if not cells[2]:
            yield Dropped(where, "no caption")
            continue
        samples.setdefault(file, Captioned(file, where)).captions.append(cells[2])
    if context.params["karpathy"] is not None:
        samples, unknown = _karpathy_samples(images.folder, context.params["karpathy"], samples)
        yield from unknown
    yield from to_records(context, images, list(samples.values()))


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The bytes of a record's image, unchanged."""
    images = ImageFiles(context)
    return lambda record: images.media(record.media["file"])


def _lines(table: Path) -> Iterator[str]:
    """The rows of results.csv as text. Only a line feed ends a row, because captions may contain other separators."""
    expected = f"Kaggle's {TABLE} with the header {'| '.join(HEADER)}"
    header, *lines = read_text(table, expected).split("\n")
    found = [cell.strip() for cell in header.split("|")]
    if found != HEADER:
        raise DataError(f"{table}: columns found: {', '.join(found)}; expected {expected}")
    yield from (line for line in lines if line.strip())


def _karpathy_samples(
    folder: Path, name: str, samples: dict[str, Captioned]
) -> tuple[dict[str, Captioned], list[Dropped]]:
    """The images of Karpathy's split, with their split, and its images that are missing in results.csv."""
    path = folder / inside(name, "params.yaml: karpathy")
    listed, unknown = {}, []
    try:
        entries = [
            (entry["filename"], KARPATHY_SPLITS[entry["split"]]) for entry in read_json(path, KARPATHY)["images"]
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not the published layout (at {error}); expected {KARPATHY}") from None
    for number, (image, split) in enumerate(entries, start=1):
        file = f"{FOLDER}/{inside(image, name)}"
        if file in samples:
            samples[file].split = split
            listed[file] = samples[file]
        else:
            unknown.append(Dropped(f"{name} image {number} ({image})", f"{TABLE} has no caption for it"))
    if left := len(samples) - len(listed):
        print(f"{left:,} images of {TABLE} are not in {name} and are left out", file=sys.stderr)
    return listed, unknown
