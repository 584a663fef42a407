"""The pictures of a sample in the order of its tokens: whole images, the crops of an image after it, and the frames of clips. Torch is not imported here."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np

from glassworks.config.packing import FRAME_START, IMAGE_START, TILE_COLUMN, TILES_END, TILES_START, TileTokens
from glassworks.config.tiles import Crops, Tiling
from glassworks.data.messages import Medium, Size, parse_messages
from glassworks.data.reading.dataset import Sample
from glassworks.errors import DataError

Kind = Literal["image", "tile", "frame"]
"""A whole image, a crop of one, or a frame of a clip."""
KINDS: tuple[Kind, ...] = ("image", "tile", "frame")


class Pictures(NamedTuple):
    """The pictures among some tokens."""

    kinds: list[Kind]
    """The kind of each picture, in the order of the tokens."""
    tilings: list[Tiling]
    """The crops of each image that has some."""


def pictures_of(ids: np.ndarray | Sequence[int], tiles: TileTokens | None) -> Pictures:
    """The pictures among token ids. Raises `DataError` for tokens of tiles that these settings do not write."""
    ids = np.asarray(ids)
    kinds: list[Kind] = []
    tilings: list[Tiling] = []
    for place in np.flatnonzero((ids == IMAGE_START) | (ids == FRAME_START) | (ids == TILES_START)).tolist():
        if ids[place] != TILES_START:
            kinds.append("image" if ids[place] == IMAGE_START else "frame")
            continue
        length = int((ids[place:] == TILES_END).argmax()) - 1
        columns = int((ids[place:] == TILE_COLUMN).argmax()) - 1
        tilings.append(_tiling(length, columns, tiles))
        kinds += ["tile"] * tilings[-1].crops
    return Pictures(kinds, tilings)


def count_pictures(ids: np.ndarray, ends: np.ndarray, tiles: TileTokens | None) -> np.ndarray:
    """int64 [documents]: the pictures of documents that end at `ends` among the token ids. Raises `DataError` as `pictures_of`."""
    marks = np.flatnonzero((ids == IMAGE_START) | (ids == FRAME_START))
    counts: np.ndarray = np.diff(np.searchsorted(marks, ends), prepend=0)
    starts = np.flatnonzero(ids == TILES_START)
    if len(starts):
        columns = np.flatnonzero(ids == TILE_COLUMN)
        first = columns[np.searchsorted(columns, starts)]
        shapes = np.stack([np.flatnonzero(ids == TILES_END) - starts - 1, first - starts - 1], axis=1)
        distinct, which = np.unique(shapes, axis=0, return_inverse=True)
        crops = np.array([_tiling(length, across, tiles).crops for length, across in distinct.tolist()])
        np.add.at(counts, np.searchsorted(ends, starts, side="right"), crops[which.ravel()])
    return counts


def _tiling(length: int, columns: int, tiles: TileTokens | None) -> Tiling:
    """The crops of an image with `length` tokens between their start and their end, in rows of `columns` and the token that ends a row."""
    found = tiles.tiling(length // (columns + 1), columns) if tiles is not None else None
    if found is None:
        raise DataError("the tokens of the tiles of an image are of other settings; pack the data again")
    return found


def windows_of(tilings: Sequence[Tiling], tiles: TileTokens) -> np.ndarray:
    """int64 [tokens, window * window]: the patches of each token among those of the crops of all images, which follow each other; -1 for none."""
    found, first = [np.empty((0, tiles.window**2), np.int64)], 0
    for tiling in tilings:
        windows = crop_windows(tiles.crops, tiles.window, tiling)
        found.append(np.where(windows < 0, -1, windows + first))
        first += tiling.crops * tiles.crops.grid**2
    return np.concatenate(found)


@lru_cache(64)
def crop_windows(crops: Crops, window: int, tiling: Tiling) -> np.ndarray:
    """int64 [tokens, window * window]: the patches of each token of the crops of an image, row by row; -1 beyond the edges.

    The patches of a crop are numbered row by row, crop after crop. Those in a margin between two crops are in no window, so all crops are one large grid.
    """
    grid, margin = crops.grid, crops.margin
    numbers = np.arange(tiling.crops * grid**2).reshape(*tiling, grid, grid)
    height, width = (-(-count // window) * window for count in crops.patches(tiling))
    large = np.full((height, width), -1, np.int64)
    for row, column in np.ndindex(*tiling):
        (top, bottom), (left, right) = (
            (margin if place else 0, grid - margin if place < count - 1 else grid)
            for place, count in zip((row, column), tiling, strict=True)
        )
        down, across = row * crops.step, column * crops.step
        large[down + top : down + bottom, across + left : across + right] = numbers[row, column, top:bottom, left:right]
    cut = large.reshape(height // window, window, width // window, window).swapaxes(1, 2).reshape(-1, window**2)
    cut.flags.writeable = False
    return cut


def media_of(sample: Sample) -> list[Medium]:
    """The images and clips of the messages of a sample, in their order; empty without messages. Raises `DataError`."""
    found = sample.json().get("messages") if "json" in sample.members else None
    parts = chain.from_iterable(message.parts for message in parse_messages(found, sample.where)) if found else ()
    return [part for part in parts if isinstance(part, Medium) and part.type != "audio"]


def image_tiling(size: Size | None, crops: Crops, name: str, where: str) -> Tiling:
    """The crops of the image `name` of a sample. Raises `DataError` beginning with `where` for an image of unknown size."""
    if size is None or size.width is None or size.height is None:
        raise DataError(
            f"{where}: the record of the image {name!r} needs its sizes with width and height, by which tiles are cut"
        )
    return crops.tiling(size.width, size.height)
