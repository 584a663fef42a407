"""The name of the object at each image token, from the labels of a sample: targets of the loss `training.naming`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from glassworks.data.reading.dataset import Sample
from glassworks.errors import DataError

ENOUGH = 0.3
"""An object is named at a window if this share of the window, or of the object's box, lies in both."""
WORDS = 2
"""Targets of a name: its first and its last token."""
IGNORED = -100
Words = Callable[[str], list[int]]
"""The token ids of a name as it stands in a text."""


def object_names(sample: Sample, grid: int, side: int, words: Words, nothing: int) -> np.ndarray:
    """int64 [M, 2] first and last token of the name at each window of `side` by `side` of the `grid` by `grid` patches, row by row.

    Of several objects the one with the largest overlap counts. A window without any object has `nothing`, one with a small part of an object -100.
    Raises `DataError` for a sample without the boxes of its objects or without the size of its image.
    """
    content = sample.json()
    objects, size = (content.get("labels") or {}).get("objects"), _size(content.get("sizes") or {})
    if size is None or not isinstance(objects, list) or not all({"name", "boxes"} <= one.keys() for one in objects):
        raise DataError(
            f"{sample.where}: training.naming needs the width and height of the image, and labels.objects with a name and boxes each; set it to 0"
        )
    across = -(-grid // side)
    edges = np.minimum(np.arange(across + 1) * side, grid) / grid
    names = [(one["name"], box) for one in objects for box in one["boxes"]]
    targets = np.full((across**2, WORDS), nothing, np.int64)
    if not names:
        return targets
    boxes = np.array([box for _, box in names]) / np.array([*size, *size])  # [objects, 4], in shares of the image
    wide, high = (_overlaps(boxes[:, axis], boxes[:, axis + 2], edges) for axis in (0, 1))
    shared = (high[:, :, None] * wide[:, None, :]).reshape(len(names), -1)  # [objects, M]
    largest, area = shared.argmax(0), shared.max(0)
    lengths = np.diff(edges)
    window = np.outer(lengths, lengths).ravel()
    own = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[largest]
    ids = np.array([(found[0], found[-1]) for found in (words(name) for name, _ in names)])
    targets[area > 0] = IGNORED
    clear = (area >= ENOUGH * window) | (area >= ENOUGH * own)
    targets[clear] = ids[largest[clear]]
    return targets


def _overlaps(low: np.ndarray, high: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """float64 [objects, intervals]: the length that an object shares with each interval between `edges`."""
    shared: np.ndarray = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
    return shared.clip(min=0)


def _size(sizes: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of the image of a sample in pixels; None if the record has none."""
    images = (found for found in sizes.values() if found.get("kind") == "image")
    return next(((found["width"], found["height"]) for found in images if {"width", "height"} <= found.keys()), None)
