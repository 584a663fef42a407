"""The source `webdataset`: existing WebDataset tars, img2dataset's included, used unchanged.

Each split selects its tars by a glob inside `path`, or by webdataset's braces ({00000..00010}.tar). Other files, such
as img2dataset's 00000.parquet and 00000_stats.json, are ignored. A sample is used if it has a caption (json or txt) and
its image decodes. Shards are hard links to the tars if the file system allows links. A tar overwritten in place
therefore changes its shard, too; readers detect the change by the digest.
"""

import json
import mmap
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from braceexpand import braceexpand

from glassworks.config.datasets import SPLITS, Split
from glassworks.data.fetching.raw_files import open_inventory, raw_folder
from glassworks.data.reading.captions import read_captions
from glassworks.data.reading.pixels import image_member, read_image
from glassworks.data.records import Dropped, Record
from glassworks.data.sidecars import Entry, scan_tar
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track


def records(context: Context) -> Iterator[Record | Dropped]:
    """Every sample of every tar: tars by name, samples in the order of the tar."""
    find, taken = ready_made(context), set()
    for split, names in _tars(context).items():
        for name in names:
            path, expected = find(name)
            scan = scan_tar(path)
            if scan.sha256 != expected:
                raise DataError(f"{path}: changed since it was fetched (its sha256 is another); run again")
            for item in _samples(path, name, split, scan.samples, context.threads, context.params["max_pixels"]):
                if isinstance(item, Record):
                    key = item.key
                    while key in taken:  # "a/b" and "a_b" both become a_b
                        key += "_"
                    taken.add(key)
                    item = replace(item, key=key, group=key)
                yield item


def ready_made(context: Context) -> Callable[[str], tuple[Path, str]]:
    """A function from a tar's path in the data set's folder to its full path and its sha256 at the time of `fetch`."""
    folder, inventory = raw_folder(context), open_inventory(context)
    return lambda name: (folder / name, inventory[name].sha256)


def _tars(context: Context) -> dict[Split, list[str]]:
    """The tars of each split. Raises `DataError` for a pattern that no tar matches and for a tar in two splits."""
    dataset, folder, inventory = context.stage.subject, raw_folder(context), open_inventory(context)
    found: dict[Split, list[str]] = {}
    split_of: dict[str, Split] = {}
    for split in (split for split in SPLITS if split in context.params["tars"]):
        found[split] = []
        listed = context.params["tars"][split].split("::")
        for pattern in (pattern for braces in listed for pattern in braceexpand(braces)):
            key = f"params.yaml: datasets.{dataset}.tars.{split}: {pattern}"
            if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts or not pattern:
                raise DataError(f"{key}: give a glob inside the folder of the data set, such as '0000*.tar'")
            matched = {path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()}
            if not matched:
                raise DataError(f"{key}: no file in {folder} matches")
            for name in sorted(matched):
                if name not in inventory:
                    raise DataError(f"{folder / name}: was not there when the data set was fetched; run again")
                if split_of.setdefault(name, split) != split:
                    raise DataError(f"{key}: {name} is in the split {split_of[name]} already; a tar has one split")
                found[split].append(name)
        found[split] = sorted(set(found[split]))
    return found


def _samples(
    path: Path, name: str, split: Split, entries: list[Entry], threads: int, max_pixels: int
) -> Iterator[Record | Dropped]:
    if not entries:
        return
    with path.open("rb") as file, ThreadPoolExecutor(threads) as pool:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        checked = pool.map(partial(_sample, view, name, split, max_pixels), entries)
        yield from track(checked, f"check {name}", len(entries), "samples")


def _sample(view: memoryview, tar: str, split: Split, max_pixels: int, entry: Entry) -> Record | Dropped:
    where = f"{tar}: sample {entry.key!r}"
    members = {extension: view[at : at + size] for extension, (at, size) in entry.members.items()}
    try:
        captions = read_captions(members, where)
        if not captions:
            return Dropped(where, "no caption in its json or txt")
        image = image_member(members, where)
        read_image(members[image], f"{where}: {image}", max_pixels)
    except DataError as error:
        return Dropped(where, str(error).removeprefix(f"{where}: "))
    key = re.sub(r"[./\\\0]", "_", f"{tar.removesuffix('.tar')}-{entry.key}")
    return Record(key, split, key, captions, _labels(members), {"tar": tar, "key": entry.key})


def _labels(members: dict[str, memoryview]) -> dict[str, Any]:
    """The labels of a sample written by glassworks; empty for other tools."""
    labels = json.loads(bytes(members["json"])).get("labels") if "json" in members else None
    return labels if isinstance(labels, dict) else {}
