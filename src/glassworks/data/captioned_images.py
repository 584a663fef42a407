"""Records from captions listed by file: the code that `folder`, `flickr30k` and `coco_captions` share.

A missing or undecodable image is dropped once, for any number of captions. Images that are the same bytes share a
split. What is found on the way, such as images that no row names, is a `Remark`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from glassworks.config.base import nearest
from glassworks.config.datasets import Split
from glassworks.data.file_names import FileNames
from glassworks.data.image_files import ImageFiles, keys
from glassworks.data.records import Dropped, Record, Remark
from glassworks.data.splits import split_of
from glassworks.data.texts import UnusableText, clean_texts
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context

SPLIT_NAMES: dict[str, Split] = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".jxl",
        ".jp2",
        ".ppm",
        ".psd",
    ]
)


@dataclass(slots=True)
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
    labels: dict[str, Any] | None = None


class CaptionedImages:
    """The images of a data set by file, as its tables name them."""

    def __init__(self, context: Context, base: str | None = None, *, once: bool = False) -> None:
        """`base` is the folder that file names are relative to, if the user set it.

        `once` leaves out a caption that its image has already.
        """
        self.once = once
        self.context, self.images = context, ImageFiles(context)
        self.names = FileNames(self.images.folder, self.images.inventory, base)
        self.samples: dict[str, Captioned] = {}
        self.unused: set[str] = set()
        """Files that rows name without making a sample, and names that are no file."""

    def add(
        self,
        where: str,
        name: Any,
        captions: list[Any],
        *,
        table: str = "",
        split: Any = None,
        group: str = "",
        labels: dict[str, Any] | None = None,
    ) -> Iterator[Dropped | Remark]:
        """Add the captions of a row, and yield what cannot be used.

        `table` is the folder of the table. Raises `DataError` for an image that two rows put into different splits.
        """
        try:
            file = self.names.find(name, table)
        except UnusableText as fault:
            if not isinstance(name, str) or not name.strip():
                yield Dropped(where, str(fault))
            elif name not in self.unused:  # once for all captions of an image
                self.unused.add(name)
                yield Dropped(f"{where} ({name})", str(fault))
            return
        where = f"{where} ({file})"
        texts, reasons = clean_texts(captions)
        if not texts:
            self.unused.add(file)
            yield Dropped(where, reasons[0] if reasons else "no caption")
            return
        for reason in reasons:
            yield Remark(f"a caption is left out, since {reason}", where)
        chosen, fault = named_split(split)
        if fault:
            self.unused.add(file)
            yield Dropped(where, fault)
            return
        sample = self.samples.get(file)
        if sample is None:
            sample = self.samples[file] = Captioned(file, where, group=group, labels=labels)
        if chosen is not None and sample.split not in (None, chosen):
            raise DataError(
                f"{where}: split {chosen}, but an earlier row of the same file says {sample.split} ({sample.where}); "
                f"an image belongs to one split"
            )
        sample.split = chosen or sample.split
        sample.captions += texts

    def records(self) -> Iterator[Record | Dropped | Remark]:
        """A record or a dropped sample for each image, in the order of the first row, and remarks."""
        context, samples = self.context, list(self.samples.values())
        yield from self._share_splits(samples)
        names = [sample.file for sample in samples]
        key = keys(names)
        faults = self.images.faults(names, context.threads, f"check {context.stage.subject}")
        for sample, fault in zip(samples, faults, strict=True):
            if fault:
                yield Dropped(sample.where, fault)
                continue
            if self.once and (repeated := len(sample.captions) - len(unique := list(dict.fromkeys(sample.captions)))):
                yield Remark("a caption that its image has already is left out", sample.where, repeated)
                sample.captions = unique
            group = sample.group or sample.file
            split = sample.split or split_of(group, context.params["splits"], context.params["seed"])
            yield Record(key[sample.file], split, group, sample.captions, sample.labels or {}, {"file": sample.file})
        yield from self._unnamed()
        if self.names.changed:
            yield Remark("a file is found with other slashes or in another Unicode form", count=self.names.changed)
        for table, base in self.names.bases.items():
            if base not in ("", table):
                yield Remark(
                    f"the names of a table are relative to the folder {base}", table or "the data set's folder"
                )

    def _share_splits(self, samples: list[Captioned]) -> Iterator[Remark]:
        """Give images with the same bytes one group, unless published splits keep them apart; say how many there are."""
        inventory = self.images.inventory
        seen, repeated = set[str](), set[str]()
        for sample in samples:
            digest = inventory[sample.file].sha256
            (repeated if digest in seen else seen).add(digest)
        alike: dict[str, list[Captioned]] = {}
        for sample in samples if repeated else []:
            if (digest := inventory[sample.file].sha256) in repeated:
                alike.setdefault(digest, []).append(sample)
        splits, seed = self.context.params["splits"], self.context.params["seed"]
        for same in alike.values():
            published = {sample.split for sample in same if sample.split}
            if len(published) < 2:
                group = min(sample.group or sample.file for sample in same)
                for sample in same:
                    sample.group, sample.split = group, next(iter(published), None)
            found = {sample.split or split_of(sample.group or sample.file, splits, seed) for sample in same}
            where = f"{same[0].file}, {same[1].file}"
            if len(found) > 1:
                yield Remark("images with the same bytes are in two splits, as published", where, len(same))
            else:
                yield Remark("images with the same bytes have several names; they share a split", where, len(same))

    def _unnamed(self) -> Iterator[Remark]:
        """The number of images that no row names."""
        inventory = self.images.inventory
        left = [
            name
            for name in inventory
            if name not in self.samples
            and name not in self.unused
            and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
        ]
        if left:  # an alias of a used image, by a linked folder, is not left out
            used = {inventory[file].sha256 for file in self.samples}
            left = sorted(name for name in left if inventory[name].sha256 not in used)
        if left:
            yield Remark("an image is named by no row", left[0], len(left))


def named_split(given: Any) -> tuple[Split | None, str]:
    """The split that a cell names, or the reason why it names none."""
    if given is None or given == "" or given != given:  # NaN of a parquet table
        return None, ""
    split = SPLIT_NAMES.get(given.strip().lower()) if isinstance(given, str) else None
    if split is None and not (isinstance(given, str) and not given.strip()):
        return None, f"unknown split: {given!r}{nearest(str(given), list(SPLIT_NAMES))}"
    return split, ""
