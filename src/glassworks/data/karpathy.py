"""Karpathy's split, one reader for dataset_flickr8k.json, dataset_flickr30k.json and dataset_coco.json."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from glassworks.config.base import nearest
from glassworks.config.datasets import Split
from glassworks.data.json_files import parsed
from glassworks.data.records import Dropped
from glassworks.data.tables import read_bytes
from glassworks.errors import DataError

EXPECTED = (
    'Karpathy\'s JSON: {"images": [{"filename", "split": train, restval, val or test, "sentences": [{"raw"}, …]}, …]}'
)
SPLITS: dict[str, Split] = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


class Listed(NamedTuple):
    """An image of the split."""

    where: str
    file: Any
    """Its name, after its folder if the file gives one (COCO: val2014/…)."""
    split: Split
    captions: list[Any]
    number: Any
    """Its id in COCO, or None."""


def read_karpathy(path: Path, name: str) -> Iterator[Listed | Dropped]:
    """The images of the file at `path`, in its order. Raises `DataError` for another JSON."""
    content = parsed(read_bytes(path, EXPECTED), path, EXPECTED)
    if not is_karpathy(content):
        found = ", ".join(list(content)[:12]) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path}: not the published layout (found: {found}); expected {EXPECTED}")
    for number, entry in enumerate(content["images"], start=1):
        where = f"{name} image {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
            yield Dropped(where, "no filename is named")
            continue
        where = f"{where} ({entry['filename']})"
        split = entry.get("split")
        if not isinstance(split, str) or split not in SPLITS:
            yield Dropped(where, f"unknown split: {split!r}{nearest(str(split), list(SPLITS))}")
            continue
        folder = entry.get("filepath")
        file = f"{folder}/{entry['filename']}" if isinstance(folder, str) and folder else entry["filename"]
        sentences = entry.get("sentences")
        captions = [
            one.get("raw") if isinstance(one, dict) else one
            for one in (sentences if isinstance(sentences, list) else [])
        ]
        yield Listed(where, file, SPLITS[split], captions, entry.get("cocoid"))


def is_karpathy(content: Any) -> bool:
    """Whether parsed JSON has Karpathy's layout."""
    images = content.get("images") if isinstance(content, dict) else None
    return isinstance(images, list) and any(isinstance(one, dict) and "filename" in one for one in images)
