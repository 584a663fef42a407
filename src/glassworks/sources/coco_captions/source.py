"""The source `coco_captions`, as published: annotations/captions_{train,val}YEAR.json, trainYEAR/ and valYEAR/.

The published val images are our test split; `splits` holds out shares of the training images. The name of an image
is its file_name in the JSON (2017: %012d.jpg; 2014: COCO_train2014_%012d.jpg). Annotations are counted from 1.
`karpathy` names dataset_coco.json, which holds captions and split, in place of the annotations.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from glassworks.data.captioned_images import CaptionedImages
from glassworks.data.image_files import ImageFiles
from glassworks.data.json_files import is_canonical, parsed
from glassworks.data.karpathy import read_karpathy
from glassworks.data.layouts import find_tables
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.tables import read_bytes
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

LAYOUT = '{"images": [{"id", "file_name", …}, …], "annotations": [{"id", "image_id", "caption"}, …]}'


def records(context: Context) -> Iterator[Record | Dropped | Remark]:
    """Every image of both annotation files, in file order, train before val."""
    found, params = CaptionedImages(context), context.params
    key = f"params.yaml: datasets.{context.stage.subject}.karpathy"
    if params["karpathy"] is not None:
        [name] = find_tables(found.images.inventory, params["karpathy"], key)
        yield from _karpathy(found, name)
    else:
        for part in ("train", "val"):
            yield from _read(found, part, params["year"], key)
    yield from found.records()


def media(context: Context) -> Callable[[Record], dict[str, bytes]]:
    """The bytes of a record's image, unchanged."""
    images = ImageFiles(context)
    return lambda record: images.media(record.media["file"])


def _karpathy(found: CaptionedImages, name: str) -> Iterator[Dropped | Remark]:
    for item in read_karpathy(found.images.folder / name, name):
        if isinstance(item, Dropped):
            yield item
            continue
        labels = {"image_id": item.number} if isinstance(item.number, int | str) else None
        yield from found.add(item.where, item.file, item.captions, split=item.split, labels=labels)


def _read(found: CaptionedImages, part: str, year: int, key: str) -> Iterator[Dropped | Remark]:
    """Add the captioned images of one annotation file."""
    folder, name = found.images.folder, f"annotations/captions_{part}{year}.json"
    listed = _list_of(folder / name, f"COCO's {name}: {LAYOUT}{_karpathy_hint(found, name, key)}")
    files: dict[int | str, tuple[str, str]] = {}
    """The file name and the entry of each image, by id."""
    for number, entry in enumerate(listed("images"), start=1):
        file, image_id = (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not isinstance(file, str) or not _is_id(image_id):
            yield Dropped(f"{name} image {number}", "no id or file_name")
            continue
        where = f"{name} image {number} ({file})"
        if image_id in files and files[image_id][0] != file:
            raise DataError(
                f"{folder / name}: the id {image_id!r} names two images, {files[image_id][0]} (image "
                f"{files[image_id][1].split()[2]}) and {file} (image {number}); their captions cannot be told apart"
            )
        files.setdefault(image_id, (file, where))
    captions: dict[int | str, list[Any]] = {}
    for number, entry in enumerate(listed("annotations"), start=1):
        image_id = entry.get("image_id") if isinstance(entry, dict) else None
        where = f"{name} annotation {number}"
        if not _is_id(image_id) or image_id not in files:
            yield Dropped(where, "no image of this file has its image_id")
        elif not isinstance(entry.get("caption"), str) or not entry["caption"].strip():
            yield Dropped(f"{where} ({part}{year}/{files[image_id][0]})", "no caption")
        else:
            captions.setdefault(image_id, []).append(entry["caption"])
    ids: dict[str, int | str] = {}
    for image_id, (file, where) in files.items():
        if image_id not in captions:
            yield Dropped(where, "no annotation has a caption for it")
            continue
        if (first := ids.setdefault(file, image_id)) != image_id:
            yield Remark("a file has two ids, whose captions are read as those of one image", f"{where}, {first!r}")
        yield from found.add(
            where,
            _path(found, f"{part}{year}", file),
            captions[image_id],
            split="test" if part == "val" else None,
            group=str(image_id) if part == "train" else f"val/{image_id}",
            labels={"image_id": image_id},
        )


def _path(found: CaptionedImages, images: str, file: str) -> str:
    """The file of an image: in its folder, or in images/ before it."""
    places = (f"{images}/{file}", f"images/{images}/{file}", f"{images}/{images}/{file}", f"images/{file}", file)
    return next((path for path in places if path in found.images.inventory), places[0])


def _karpathy_hint(found: CaptionedImages, name: str, key: str) -> str:
    if name not in found.images.inventory and "dataset_coco.json" in found.images.inventory:
        return f"; or set {key}: dataset_coco.json, which is there"
    return ""


def _is_id(value: Any) -> TypeGuard[int | str]:
    return isinstance(value, int | str) and not isinstance(value, bool) and is_canonical(value)


def _list_of(path: Path, expected: str) -> Callable[[str], list[Any]]:
    """A function from a key to its list in the JSON at `path`."""
    content = parsed(read_bytes(path, expected), path, expected)

    def listed(key: str) -> list[Any]:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise DataError(f"{path}: no list {key!r} (found: {found}); expected {expected}")
        items: list[Any] = content[key]
        return items

    return listed
