"""Which source reads a folder: decided by the names of its files and by the first rows of its tables.

The sources' own readers look into the files. What fits several sources is left to the user.
"""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from glassworks.config.datasets import SPLITS
from glassworks.data.captioned_images import IMAGE_SUFFIXES
from glassworks.data.layouts import find_tables, text_pairs
from glassworks.data.tables import Layout, read_rows
from glassworks.data.tables import Row as TableRow
from glassworks.errors import ConfigError, DataError
from glassworks.sources.messages.forms import form_of
from glassworks.sources.messages.rows import SUFFIXES as OBJECTS
from glassworks.sources.messages.rows import Row, read_objects
from glassworks.sources.messages.source import FIRST, file_split
from glassworks.sources.texts.source import PLAIN, TABLES

SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".oga")
VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi")
FORMS = {
    "folder": "images with a table of captions (captions.csv, metadata.jsonl), or a .txt beside each image",
    "llava": "images with conversations, in one .json of LLaVA's layout",
    "video": "videos with a .jsonl of video and caption, or of video, question and answer",
    "audio_folder": "sounds with a table of transcripts",
    "messages": "conversations: JSONL, JSON or parquet of alpaca, ShareGPT, OpenAI, or prompt and completion",
    "texts": ".txt and .md files, or tables with the column text",
    "webdataset": "WebDataset tars",
}
"""What each source for the user's own data reads."""
MARKS = {
    "librispeech": "*/*.trans.txt",
    "common_voice": "*validated.tsv",
    "coco_captions": "annotations/captions_*.json",
    "flickr30k": "flickr30k[-_]images/*",
}
"""A file that only this published data set has, as a pattern, by source."""


class Fit(NamedTuple):
    """A source that can read a folder."""

    source: str
    words: str
    """What was found."""
    settings: dict[str, Any]
    """Settings beside source and path."""


def recognise(folder: Path, names: list[str], where: Path) -> Fit:
    """The source for these files, whose folder the user calls `where`.

    Raises `ConfigError` for files that no source reads, or several; `DataError` for images or sounds without texts.
    """
    found = list(_published(names)) or list(_own(folder, names))
    if len(found) > 1:
        fits = "; ".join(f"{fit.source} ({fit.words})" for fit in found)
        raise ConfigError(f"{where}: several sources fit: {fits}; choose one with --source")
    if found:
        return found[0]
    if of_kind(names, IMAGE_SUFFIXES) or of_kind(names, SOUNDS):
        try:
            find_tables(names, None, str(where))
        except DataError as error:
            raise DataError(f"{error} with --set captions=TABLE, or --set table=TABLE for sounds") from None
    forms = "; ".join(f"{source}: {form}" for source, form in FORMS.items())
    raise ConfigError(f"{where}: found {census(names)}; no source is for this. The forms are {forms}")


def census(names: list[str]) -> str:
    """The files in words, by suffix, the most frequent first."""
    counts = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in names)
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(6)) or "no files"


def of_kind(names: list[str], suffixes: Any) -> list[str]:
    """The names with one of these suffixes."""
    return [name for name in names if PurePosixPath(name).suffix.lower() in suffixes]


def _published(names: list[str]) -> Iterator[Fit]:
    for source, pattern in MARKS.items():
        if match := next((name for name in names if PurePosixPath(f"/{name}").match(pattern)), None):
            yield Fit(source, f"its {match}", {})


def _own(folder: Path, names: list[str]) -> Iterator[Fit]:
    images, sounds = of_kind(names, IMAGE_SUFFIXES), of_kind(names, SOUNDS)
    tars = of_kind(names, (".tar",))
    if tars and not images and not sounds:
        yield Fit("webdataset", f"{len(tars):,} .tar", {"tars": tars_by_split(tars)})
        return
    media = bool(images or of_kind(names, VIDEOS))
    forms, pictured, filmed = _conversations(folder, names)
    if filmed and media:
        settings = {"table": filmed} if len(of_kind(names, (".jsonl",))) > 1 else {}
        yield Fit("video", f"{filmed} with a video in each row", settings)
        return
    if pictured and media:
        settings = {"conversations": pictured} if len(of_kind(names, (".json",))) > 1 else {}
        yield Fit("llava", f"{pictured} in LLaVA's layout", settings)
    elif forms:
        shown = ", ".join(f"{name} in the {form} form" for name, form in list(forms.items())[:3])
        yield Fit("messages", shown, {})
    others = [name for name in names if name not in forms and name != pictured]
    for source, files in (("folder", images), ("audio_folder", sounds)):
        if files and (words := _captions(others, pairs=source == "folder")):
            yield Fit(source, f"{len(files):,} {'images' if source == 'folder' else 'sounds'} with {words}", {})
    if not (media or sounds or forms) and (words := _texts(folder, names)):
        yield Fit("texts", words, {})


def _conversations(folder: Path, names: list[str]) -> tuple[dict[str, str], str, str]:
    """The form of each file of conversations; the name of a .json whose conversations are about images or videos; and that of a table of videos."""
    forms, pictured, filmed = dict[str, str](), "", ""
    for name in of_kind(names, OBJECTS):
        try:
            rows = [item.value for item in islice(read_objects(folder / name, name), FIRST) if isinstance(item, Row)]
        except DataError:
            continue  # a table of another kind
        if rows and all("video" in row and {"caption", "question"} & row.keys() for row in rows):
            filmed = name
            continue
        form = next((found for row in rows if (found := form_of(row))), None)
        if form and name.endswith(".json") and any({"image", "video"} & row.keys() for row in rows):
            pictured = name
        elif form:
            forms[name] = form
    return forms, pictured, filmed


def _captions(names: list[str], pairs: bool) -> str:
    """The tables of captions in words, or the texts beside images; empty if there is neither."""
    try:
        tables = find_tables(names, None, "")
    except DataError:
        return ""
    if tables:
        return ", ".join(tables[:3])
    return "a text beside each" if pairs and text_pairs(names) else ""


def _texts(folder: Path, names: list[str]) -> str:
    """The texts in words, empty if there are none."""
    plain, tables = of_kind(names, PLAIN), list[str]()
    for name in of_kind(names, TABLES):
        try:
            rows = islice(read_rows(folder / name, name, Layout(name, roles=("text",))), FIRST)
            tables += [name] if any(isinstance(row, TableRow) for row in rows) else []
        except DataError:
            continue  # no table with a text
    shown = [f"{len(plain):,} plain texts"] if plain else []
    return " and ".join([*shown, *([", ".join(tables[:3])] if tables else [])])


def tars_by_split(tars: list[str]) -> dict[str, str]:
    """A glob of the tars of each split. Tars whose name begins with no split are for training."""
    groups: dict[str, list[str]] = {}
    for name in tars:
        groups.setdefault(file_split(name) or "train", []).append(name)
    return {split: _glob(groups[split], tars) for split in SPLITS if split in groups}


def _glob(group: list[str], tars: list[str]) -> str:
    """A glob that matches these tars alone, or their names."""
    prefix = os.path.commonprefix([name.removesuffix(".tar") for name in group]).rstrip("0123456789")  # noqa: RUF071 (of characters)
    glob = f"{prefix}*.tar"
    flat = not any("/" in name.removeprefix(prefix) for name in group)
    alone = flat and sorted(name for name in tars if PurePosixPath(name).match(glob)) == sorted(group)
    return glob if alone else "::".join(group)
