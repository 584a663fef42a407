"""From captions listed by file to records: what `folder`, `flickr30k` and `coco_captions` have in common once their
tables are read.

An image that is missing or does not decode is dropped, once, however many captions it has.
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
    """The first row that names it, for messages."""
    captions: list[str] = field(default_factory=list)
    split: Split | None = None
    """The split that the dataset publishes; None leaves it to the stable hash."""
    group: str = ""
    """What stays in one split; the file when empty."""
    labels: dict[str, Any] = field(default_factory=dict)


def to_records(context: Context, images: ImageFiles, samples: list[Captioned]) -> Iterator[Record | Dropped]:
    """One record or one dropped sample for each, in order."""
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
    """The text of a table of captions; a `DataError` says what was expected where it is missing or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # not read_text: it would make a lone \r the end of a row
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise DataError(f"{path}: no such file; expected {expected}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start:,}); convert it") from None


def read_json(path: Path, expected: str) -> Any:
    """The JSON in a file; a `DataError` says what was expected where it is missing or no JSON."""
    try:
        return json.loads(read_text(path, expected))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON (line {error.lineno}: {error.msg}); expected {expected}") from None
