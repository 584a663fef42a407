"""Downloaded images with the rows of the tables that name them: the code that the `pixmo` sources share.

All rows of an image come together, also where its bytes have several URLs. Images are read from the tars of the raw
artefact and compared with the digests that `fetch` recorded.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from glassworks.config.datasets import RemoteImages, Split
from glassworks.data.captioned_images import SPLIT_NAMES
from glassworks.data.fetching.image_urls import FAILURES, IMAGES, read_columns, table_names
from glassworks.data.fetching.raw_files import open_inventory, raw_folder
from glassworks.data.image_files import BATCH, ImageFacts, facts_of, member_extension
from glassworks.data.records import Dropped, Remark
from glassworks.data.splits import split_of
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track

URL = RemoteImages.url_column
SPLIT_ORDER: tuple[Split | None, ...] = (None, "train", "validation", "test")
"""None is a row whose split is drawn."""
ROWS = 1 << 12
"""Rows decoded at a time."""


class Place(NamedTuple):
    """The bytes of an image in a tar of the raw artefact."""

    tar: str
    offset: int
    size: int
    sha256: str


class TableRow(NamedTuple):
    """A row that names an image."""

    where: str
    """File and row."""
    url: str
    value: dict[str, Any]
    """The other columns."""


@dataclass(frozen=True)
class RemoteImage:
    """An image and all its rows."""

    key: str
    """Its number among the downloaded images, and its split if the published splits share it."""
    place: Place
    facts: ImageFacts
    split: Split
    group: str
    """The digest of its bytes."""
    rows: list[TableRow]


class TarImages:
    """The images in the tars of a raw artefact."""

    def __init__(self, context: Context) -> None:
        self.folder: Path = context.inputs["raw"]

    def read(self, place: Place) -> bytes:
        """The bytes of an image. Raises `DataError` when they differ from those that were downloaded."""
        with (self.folder / place.tar).open("rb") as file:
            file.seek(place.offset)
            content = file.read(place.size)
        if hashlib.sha256(content).hexdigest() != place.sha256:
            raise DataError(f"{self.folder / place.tar}: changed since it was fetched; run again")
        return content

    def media(self, place: Sequence[Any]) -> dict[str, bytes]:
        """The unchanged bytes, by the extension of their format."""
        content = self.read(Place(*place))
        return {member_extension(content, ""): content}


def remote_images(
    context: Context, columns: Sequence[str], published: bool = False
) -> Iterator[RemoteImage | Dropped | Remark]:
    """Every downloaded image that decodes, with its rows. An image comes when its last row is read.

    `columns` are read beside the URL. With `published` the name of a table, such as `validation-00000-of-00001.parquet`, tells
    the split of its rows; else `splits` of the settings hold out images. Raises `DataError` for a table that lacks a column.
    """
    folder, params = raw_folder(context), context.params
    names = table_names(list(open_inventory(context)), params, context.stage.subject)
    places, numbers, failed = _places(context.inputs["raw"])
    images: dict[str, list[int]] = {}
    """For each row of a table its image and split as one number, or -1."""
    lost = Counter[str]()
    for name in names:
        split = SPLIT_ORDER.index(_published_split(name, context) if published else None)
        images[name] = found = []
        for batch in read_columns(folder / name, [URL, *columns]):
            for url in batch[URL].to_pylist():
                number = numbers.get(url)
                found.append(-1 if number is None else number * len(SPLIT_ORDER) + split)
                if number is None and isinstance(url, str) and url.strip():
                    lost["was not downloaded (failures.jsonl)" if url in failed else "is beyond `images`"] += 1
                elif number is None:
                    yield Dropped(f"{name} row {len(found)}", f"no {URL}")
    for reason, count in sorted(lost.items()):
        yield Remark(f"a row is left out, since its image {reason}", "", count)
    yield from _images(context, places, _rows(folder, names, columns, images))


def _places(raw: Path) -> tuple[list[Place], dict[str, int], set[str]]:
    """The images, the number of the image of each URL, and the URLs without one. Equal bytes are one image."""
    places: list[Place] = []
    numbers: dict[str, int] = {}
    first: dict[str, int] = {}
    for batch in pq.ParquetFile(raw / IMAGES).iter_batches():
        for row in batch.to_pylist():
            place = Place(row["tar"], row["offset"], row["size"], row["sha256"])
            number = first.setdefault(place.sha256, len(places))
            if number == len(places):
                places.append(place)
            numbers[row["url"]] = number
    with (raw / FAILURES).open(encoding="utf-8") as file:
        failed = {json.loads(line)["url"] for line in file}
    return places, numbers, failed


def _published_split(name: str, context: Context) -> Split:
    """The split that the name of a table begins with, as datasets on the hub have it. Raises `DataError`."""
    stem = name.rpartition("/")[2].removesuffix(".parquet").partition("-")[0].lower()
    if stem not in SPLIT_NAMES:
        raise DataError(
            f"params.yaml: datasets.{context.stage.subject}.splits: the name of {name} begins with no split "
            f"(train-, validation-, test-); set shares such as {{validation: 0.05, test: 0.05}}"
        )
    return SPLIT_NAMES[stem]


def _rows(
    folder: Path, names: list[str], columns: Sequence[str], images: dict[str, list[int]]
) -> Iterator[tuple[int, list[TableRow]]]:
    """Each image with all its rows, as soon as the last one is read."""
    left = Counter(image for found in images.values() for image in found)
    waiting: dict[int, list[TableRow]] = {}
    for name in names:
        numbered = enumerate(images[name], start=1)
        for batch in read_columns(folder / name, [URL, *columns], ROWS):
            for value in batch.to_pylist():
                row, image = next(numbered)
                if image < 0:
                    continue
                waiting.setdefault(image, []).append(TableRow(f"{name} row {row}", value.pop(URL), value))
                left[image] -= 1
                if not left[image]:
                    yield image, waiting.pop(image)


def _images(
    context: Context, places: list[Place], rows: Iterator[tuple[int, list[TableRow]]]
) -> Iterator[RemoteImage | Dropped | Remark]:
    """The images that decode. The rows of the others are dropped."""
    params, tars = context.params, TarImages(context)

    def facts(part: range) -> list[ImageFacts | str]:
        return [facts_of(tars.read(places[number]), places[number].tar, params["max_pixels"]) for number in part]

    parts = [range(start, min(start + BATCH, len(places))) for start in range(0, len(places), BATCH)]
    with ThreadPoolExecutor(context.threads) as pool:
        label = f"check {context.stage.subject}"
        checked = list(track(chain.from_iterable(pool.map(facts, parts)), label, len(places), "images"))
    splits_of: dict[int, Split] = {}
    torn = set[int]()
    for coded, of_image in rows:
        number, published = coded // len(SPLIT_ORDER), SPLIT_ORDER[coded % len(SPLIT_ORDER)]
        found = checked[number]
        if isinstance(found, str):
            for row in of_image:
                yield Dropped(f"{row.where} ({row.url})", found)
            continue
        key, group = f"{number:08d}", f"image-{places[number].sha256[:16]}"
        split = published or split_of(group, params["splits"], params["seed"])
        if splits_of.setdefault(number, split) != split:
            torn.add(number)
            key, group = f"{key}-{split}", f"{group}-{split}"
        yield RemoteImage(key, places[number], found, split, group, of_image)
    if torn:
        yield Remark("an image has rows in two splits, as published", "", len(torn))
