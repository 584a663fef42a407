"""Records from captions listed by file: the code that `folder`, `flickr30k` and `coco_captions` share.

A missing or undecodable image is dropped once, for any number of captions.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glassworks.config.datasets import Split
from glassworks.data.image_files import ImageFiles, keys
from glassworks.data.records import Dropped, Record
from glassworks.data.splits import split_of
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context


@dataclass
class Captioned:
    """An image with its captions."""

    file: str
    """Path relative to the folder of the dataset."""
    where: str
    """The first row with the image, for error messages."""
    captions: list[str] = field(default_factory=list)
    split: Split | None = None
    """The published split; None assigns one by stable hash."""
    group: str = ""
    """Samples of one group share a split; empty means `file`."""
    labels: dict[str, Any] = field(default_factory=dict)


def to_records(context: Context, images: ImageFiles, samples: list[Captioned]) -> Iterator[Record | Dropped]:
    """A record or a dropped sample for each image, in order."""
    names = [sample.file for sample in samples]
    key = keys(names)
    for sample, fault in zip(
        samples, images.faults(names, context.threads, f"check {context.stage.subject}"), strict=True
    ):
        if fault:
            yield Dropped(sample.where, fault)
            continue
        group = sample.group or sample.file
        split = sample.split or split_of(group, context.params["splits"], context.params["seed"])
        yield Record(key[sample.file], split, group, sample.captions, sample.labels, {"file": sample.file})


def read_text(path: Path, expected: str) -> str:
    """The text of a caption table.

    Raises `DataError` with the `expected` content for a file that is missing or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")  # not read_text, which treats a lone \r as the end of a row
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{path}: no such file; expected {expected}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start:,}); convert it") from None


def read_json(path: Path, expected: str) -> Any:
    """The parsed JSON of a file. Raises `DataError` with the `expected` content for a missing or invalid file."""
    try:
        return json.loads(read_text(path, expected))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON (line {error.lineno}: {error.msg}); expected {expected}") from None
