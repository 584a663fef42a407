"""The tables of a folder of captioned images: the one that the user named, or those with usual names."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from glassworks.config.base import nearest
from glassworks.data.captioned_images import IMAGE_SUFFIXES, SPLIT_NAMES
from glassworks.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".json", ".txt", ".token")
USUAL = re.compile(
    r"(captions|metadata|labels|annotations|results|dataset_flickr8k|dataset_flickr30k|results_20130124|Flickr8k\.token)"
    r"(\.csv|\.tsv|\.jsonl|\.ndjson|\.parquet|\.json|\.txt|\.token)",
    re.IGNORECASE,
)
METADATA = re.compile(r"metadata\.(csv|jsonl|parquet)", re.IGNORECASE)
"""A table of Hugging Face's imagefolder: names are relative to its own folder, which may name the split."""


def find_tables(names: Iterable[str], given: str | None, key: str) -> list[str]:
    """The tables to read, sorted; none where every image has a text beside it (`is_pair_glob`).

    `given` is the user's setting, whose place is `key`. Raises `DataError` with the tables there are.
    """
    names = list(names)
    if given is not None:
        wanted = str(PurePosixPath(given))
        if wanted.startswith("/") or ".." in PurePosixPath(given).parts:
            raise DataError(f"{key}: {given!r} points outside the folder of the dataset; only files inside it are read")
        found = [wanted] if wanted in names else sorted(name for name in names if fnmatchcase(name, wanted))
        if not found:
            raise DataError(f"{key}: {given}: no such file{nearest(given, _candidates(names))}")
        return found
    top = sorted((name for name in names if "/" not in name and USUAL.fullmatch(name)), key=_rank)
    if top and (len(top) == 1 or _rank(top[0])[:2] < _rank(top[1])[:2]):
        return top[:1]
    if top:
        raise DataError(f"{key}: several tables are there: {', '.join(top)}; name one")
    split_tables = sorted(name for name in names if METADATA.fullmatch(PurePosixPath(name).name))
    if split_tables:
        return split_tables
    below = sorted(name for name in names if name.count("/") == 1 and USUAL.fullmatch(PurePosixPath(name).name))
    if len(below) == 1:
        return below
    if text_pairs(names):
        return []
    candidates = _candidates(names)
    shown = f"; tables found: {', '.join(candidates[:5])}" if candidates else ""
    raise DataError(f"{key}: no such file as captions.csv, and no .txt is beside an image{shown}; name the table")


def is_pair_glob(given: str | None) -> bool:
    """Whether the setting asks for a text beside each image."""
    return given is not None and PurePosixPath(given).name in ("*.txt", "*.caption", "*.text")


def text_pairs(names: Iterable[str], suffixes: tuple[str, ...] = (".txt", ".caption", ".text")) -> dict[str, str]:
    """The text beside each image (`1.jpg` and `1.txt`), in order; empty if no image has one."""
    texts: dict[str, str] = {}
    listed = sorted(names)
    for name in listed:
        path = PurePosixPath(name)
        if path.suffix.lower() in suffixes:
            texts.setdefault(str(path.with_suffix("")), name)
    pairs = {}
    for name in listed:
        path = PurePosixPath(name)
        if path.suffix.lower() in IMAGE_SUFFIXES and (text := texts.get(str(path.with_suffix("")))):
            pairs[name] = text
    return pairs


def split_of_table(name: str) -> str | None:
    """The split that the folder of an imagefolder's table names: train/metadata.jsonl."""
    path = PurePosixPath(name)
    folder = path.parent.name.lower()
    return folder if METADATA.fullmatch(path.name) and folder in SPLIT_NAMES else None


def names_from(name: str) -> bool:
    """Whether names in a table are relative to its own folder first."""
    return METADATA.fullmatch(PurePosixPath(name).name) is not None


def _rank(name: str) -> tuple[int, int, str]:
    """captions.csv before other captions, and these before other tables."""
    return (name != "captions.csv", not name.lower().startswith("captions"), name)


def _candidates(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(TABLE_SUFFIXES))
