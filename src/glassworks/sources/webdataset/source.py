"""The source `webdataset`: existing WebDataset tars, img2dataset's included, used unchanged.

Each split selects its tars by a glob inside `path`, or by webdataset's braces ({00000..00010}.tar). Other files, such
as img2dataset's 00000.parquet and 00000_stats.json, are ignored. A sample is used if it has a caption (json, else txt) and
its image decodes. Samples whose keys have dots are merged by WebDataset's rule and are dropped, each counted. Shards are
hard links to the tars if the file system allows links. A tar overwritten in place
therefore changes its shard, too; readers detect the change by the digest.
"""

import hashlib
import mmap
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from braceexpand import braceexpand

from glassworks.config.datasets import SPLITS, Split
from glassworks.data.fetching.raw_files import open_inventory, raw_folder
from glassworks.data.json_files import is_canonical
from glassworks.data.reading.captions import find_captions
from glassworks.data.reading.pixels import EXTENSIONS, image_member, read_image
from glassworks.data.records import Dropped, Pictures, Record, Remark
from glassworks.data.sidecars import Entry, scan_tar
from glassworks.data.texts import is_unicode
from glassworks.errors import DataError
from glassworks.pipeline.execution import Context
from glassworks.progress import track
from glassworks.sources.protocol import Item, Part, in_order


def records(context: Context) -> Iterator[Item]:
    """Every sample of every tar: tars by name, samples in the order of the tar."""
    return in_order(parts(context))


def parts(context: Context) -> list[Part]:
    """The samples of each tar. Tars that may have a key in common are in one part."""
    find, tars = ready_made(context), [(split, name) for split, names in _tars(context).items() for name in names]
    return [partial(_part, context, find, run) for run in _apart(tars)]


def _apart(tars: list[tuple[Split, str]]) -> list[list[tuple[Split, str]]]:
    """The tars cut into the shortest runs such that no two runs can share a key.

    A key begins with the name of its tar, so two tars can share one only if the name of one begins with that of the other.
    """
    names = [_key(name, "") for _, name in tars]
    family, shortest = dict[str, str](), ""
    for name in sorted(names):
        shortest = shortest if shortest and name.startswith(shortest) else name
        family[name] = shortest
    last = {family[name]: place for place, name in enumerate(names)}
    runs, end = list[list[tuple[Split, str]]](), -1
    for place, (tar, name) in enumerate(zip(tars, names, strict=True)):
        if place > end:
            runs.append([])
        runs[-1].append(tar)
        end = max(end, last[family[name]])
    return runs


def _part(context: Context, find: Callable[[str], tuple[Path, str]], tars: list[tuple[Split, str]]) -> Iterator[Item]:
    """The samples of some tars."""
    taken = set[str]()
    for split, name in tars:
        path, expected = find(name)
        scan = scan_tar(path)
        if scan.sha256 != expected:
            raise DataError(f"{path}: changed since it was fetched (its sha256 is another); run again")
        for member in scan.passed_over:
            yield Remark("a member without extension or key is passed over", f"{name}: {member}")
        for item, digests, remarks in _samples(
            path, name, split, scan.samples, context.threads, context.params["max_pixels"]
        ):
            if isinstance(item, Record):
                key = item.key
                while key in taken:  # "a/b" and "a_b" both become a_b
                    key += "_"
                taken.add(key)
                yield Pictures(split, digests)
                yield replace(item, key=key, group=key)
            else:
                yield item
            yield from remarks


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


_Result = tuple[Record | Dropped, list[int], list[Remark]]
"""A sample, digests of its images, and remarks."""


def _samples(
    path: Path, name: str, split: Split, entries: list[Entry], threads: int, max_pixels: int
) -> Iterator[_Result]:
    if not entries:
        return
    folders: dict[str, list[Entry]] = {}
    for entry in entries if any("/" in entry.key for entry in entries) else []:
        folders.setdefault(entry.key.rpartition("/")[2], []).append(entry)
    with path.open("rb") as file, ThreadPoolExecutor(threads) as pool:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        checked = pool.map(partial(_sample, view, name, split, folders, max_pixels), entries)
        yield from track(checked, f"check {name}", len(entries), "samples")


def _sample(
    view: memoryview, tar: str, split: Split, folders: dict[str, list[Entry]], max_pixels: int, entry: Entry
) -> _Result:
    where = f"{tar}: sample {entry.key!r}"
    members = {extension: view[at : at + size] for extension, (at, size) in entry.members.items()}
    images = [extension for extension in members if extension.rpartition(".")[2] in EXTENSIONS]
    if fault := _fault(where, entry, images):
        return fault, [], []
    image = ""
    try:
        captions = find_captions(members, where)
        if images:
            image = image_member(members, where)
            read_image(members[image], where, max_pixels)
    except DataError as error:
        reason = str(error).removeprefix(f"{where}: ")
        return Dropped(where, f"{reason} ({image})" if image else reason), [], []
    found = ", ".join(members)
    elsewhere = "; a key ends at its first dot" if any("." in extension for extension in members) else ""
    elsewhere += _elsewhere(entry, folders)
    if not captions.texts:
        reason = (
            captions.unusable[0]
            if captions.unusable
            else f"no caption in its json or txt (members: {found}{elsewhere})"
        )
        return Dropped(where, reason), [], []
    if not images:
        return Dropped(where, f"no image ({found}{elsewhere})"), [], []
    labels = captions.content.get("labels")
    labels = labels if isinstance(labels, dict) else {}
    if not is_canonical(labels):
        return Dropped(where, "its labels hold NaN, an infinite number or half of a character"), [], []
    remarks = [Remark(f"a caption is left out, since {reason}", where) for reason in captions.unusable]
    if (more := [extension for extension in images if "." in extension]) and len(more) < len(images):
        remarks.append(Remark("an image with a dot in its extension is not used", f"{where}: {more[0]}", len(more)))
    if captions.differing:
        remarks.append(Remark("json and txt give different captions; json's are used", where))
    if captions.several_lines:
        remarks.append(Remark("a txt has several lines, which are one caption", where))
    digests = [int.from_bytes(hashlib.sha256(members[extension]).digest()[:8], "big") for extension in images]
    key = _key(tar, entry.key)
    return Record(key, split, key, captions.texts, labels, {"tar": tar, "key": entry.key}), digests, remarks


def _key(tar: str, key: str) -> str:
    return re.sub(r"[./\\\0]", "_", f"{tar.removesuffix('.tar')}-{key}")


def _fault(where: str, entry: Entry, images: list[str]) -> Dropped | None:
    """A name that is not UTF-8, or the images of several samples whose keys had dots."""
    if not is_unicode(entry.key) or not all(map(is_unicode, entry.members)):
        return Dropped(ascii(where)[1:-1], "the name of a member is not UTF-8")
    ends = [extension.rpartition(".")[2] for extension in images]
    plain = any("." not in extension for extension in images)
    most = max(set(ends), key=ends.count, default="")
    if ends.count(most) > 1 and not plain:
        same = [f"{entry.key}.{extension}" for extension in images if extension.endswith(f".{most}")]
        reason = (
            f"several images under one key, which ends at the first dot: {', '.join(same[:4])}; rename without dots"
        )
        return Dropped(where, reason, len(same))
    return None


def _elsewhere(entry: Entry, folders: dict[str, list[Entry]]) -> str:
    """Members of the same name in other folders, which make other samples."""
    others = [other for other in folders.get(entry.key.rpartition("/")[2], []) if other.key != entry.key]
    if not others:
        return ""
    named = ", ".join(f"{other.key}.{extension}" for other in others for extension in other.members)
    return f"; in another folder, which makes another sample: {named[:120]}"
