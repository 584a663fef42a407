"""The source `coco_captions`, as published: annotations/captions_{train,val}YEAR.json, trainYEAR/ and valYEAR/.

The published val images are our test split; `splits` holds out shares of the training images. The name of an image
is its file_name in the JSON (2017: %012d.jpg; 2014: COCO_train2014_%012d.jpg). Annotations are counted from 1.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glassworks.data.captioned_images import Captioned, read_json, to_records
from glassworks.data.image_files import ImageFiles, inside
from glassworks.data.records import Dropped, Record
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

LAYOUT = '{"images": [{"id", "file_name", …}, …], "annotations": [{"id", "image_id", "caption"}, …]}'


def records(context: Context) -> Iterator[Record | Dropped]:
    """Every image of both annotation files, in file order, train before val."""
    images, year = ImageFiles(context), context.params["year"]
    samples: list[Captioned] = []
    for part in ("train", "val"):
        listed, dropped = _read(images.folder, f"annotations/captions_{part}{year}.json", f"{part}{year}")
        for sample in listed:
            sample.split = "test" if part == "val" else None
        samples += listed
        yield from dropped
    yield from to_records(context, images, samples)


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The bytes of a record's image, unchanged."""
    images = ImageFiles(context)
    return lambda record: images.media(record.media["file"])


def _read(folder: Path, name: str, images: str) -> tuple[list[Captioned], list[Dropped]]:
    """The captioned images and the unusable entries of one annotation file."""
    content = read_json(folder / name, f"COCO's {name}: {LAYOUT}")
    samples: dict[int, Captioned] = {}
    dropped: list[Dropped] = []
    for number, entry in enumerate(_list(content, "images", folder / name), start=1):
        try:
            file, image_id = entry["file_name"], entry["id"]
            where = f"{name} image {number} ({file})"
            samples[image_id] = Captioned(
                f"{images}/{inside(file, where)}", where, group=str(image_id), labels={"image_id": image_id}
            )
        except (KeyError, TypeError):
            raise DataError(f"{folder / name}: image {number} has no id or file_name; expected {LAYOUT}") from None
    for number, entry in enumerate(_list(content, "annotations", folder / name), start=1):
        where = f"{name} annotation {number}"
        sample = samples.get(entry["image_id"]) if isinstance(entry, dict) and "image_id" in entry else None
        if sample is None:
            dropped.append(Dropped(where, "no image of this file has its image_id"))
        elif not isinstance(entry.get("caption"), str) or not entry["caption"].strip():
            dropped.append(Dropped(f"{where} ({sample.file})", "no caption"))
        else:
            sample.captions.append(entry["caption"].strip())
    dropped += [
        Dropped(sample.where, "no annotation has a caption for it")
        for sample in samples.values()
        if not sample.captions
    ]
    return [sample for sample in samples.values() if sample.captions], dropped


def _list(content: Any, key: str, path: Path) -> list[Any]:
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path}: no list {key!r} (found: {found}); expected {LAYOUT}")
    return content[key]
